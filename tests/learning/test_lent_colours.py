"""A centre of which hardly anything but background was accepted lends its colours to central patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overread.domain import BadInputError
from overread.ensemble.lesson import Stain
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Normalisation, Plan
from overread.imaging.dataset import read_dataset
from overread.learning.lessons import lacking, lessons_of
from overread.learning.options import RetrainingOptions
from overread.learning.training_set import TrainingSet
from support.pictures import write_tissue
from support.plans import tiny_plan

RGB = replace(
    tiny_plan(axes=2, channels=3, mirror_axes=()), normalisation=(Normalisation("rgb"),) * 3, um_per_px=1.0
)
LENDING = RetrainingOptions(lent=0.4)


@pytest.mark.parametrize(
    ("local", "central", "lack", "structure"),
    [
        ([()], [(1,), ()], 1.0, 1),
        ([(1,), ()], [(1,), ()], 0.0, 0),
        ([(1,)], [(1,), ()], 0.0, 0),
        ([(1,), (), (), ()], [(1,), ()], 0.5, 1),
        # Of several structures, the one that is missed most decides.
        ([(1,), (1,)], [(1, 2), (1,)], 1.0, 2),
        ([(1, 2), (1,)], [(1, 2), (1, 2)], 0.5, 2),
        # What the centre of training has never seen, nobody can lack.
        ([(3,)], [(), ()], 0.0, 0),
    ],
)
def test_what_a_centre_lacks_is_measured_by_the_central_cases(
    local: list, central: list, lack: float, structure: int
):
    assert lacking(local, central) == (pytest.approx(lack), structure)


@pytest.fixture
def cases(tmp_path: Path) -> tuple[TrainingSet, PatchStore]:
    """Three central pictures and two of each of two centres; of the west nothing but background was accepted.

    The third central one is background, too.
    """
    data = write_tissue(tmp_path / "data", 7)
    for number in (2, 5, 6):
        file = data / "labelsTr" / f"tissue_{number:02}.png"
        Image.fromarray(np.zeros_like(np.asarray(Image.open(file)))).save(file)
    dataset = read_dataset(data)
    ids = [case.id for case in dataset.cases]
    store = PatchStore(tmp_path / "cases")
    store.fill(dataset, RGB, np.random.default_rng(0))
    together = TrainingSet(
        dataset,
        local=frozenset(ids[3:]),
        central=frozenset(ids[:3]),
        protected=frozenset(),
        unseen={},
        patients={case: case for case in ids},
        centres=dict(zip(ids[3:], ["east", "east", "west", "west"], strict=True)),
    )
    return together, store


def taught(cases: tuple[TrainingSet, PatchStore], options: RetrainingOptions, plan: Plan = RGB):
    """The lesson of the only member."""
    together, store = cases
    keys = {case.id: case.id for case in together.dataset.cases}
    (lesson,) = lessons_of(Path("champion"), {"members": ["0.pt"]}, plan, together, keys, store, options)
    return lesson


def test_central_patches_are_shown_in_the_colours_of_the_centre_without_structures(cases):
    restaining = taught(cases, LENDING).restaining
    assert restaining is not None
    assert restaining.cases == {"tissue_00", "tissue_01", "tissue_02"}
    (west,) = restaining.like
    assert isinstance(west, Stain)
    # One of two centres lends all of its part.
    assert west.share == pytest.approx(0.2)
    # Background is compared with background.
    colours = cases[1].colours
    torch.testing.assert_close(west.here, colours("tissue_02"))
    torch.testing.assert_close(west.there, (colours("tissue_05") + colours("tissue_06")) / 2)


def test_where_every_central_case_holds_the_structure_all_of_them_are_compared(cases):
    together, store = cases
    central = replace(together, central=frozenset({"tissue_00", "tissue_01"}))
    restaining = taught((central, store), LENDING).restaining
    assert restaining is not None
    (west,) = restaining.like
    assert isinstance(west, Stain)
    torch.testing.assert_close(west.here, (store.colours("tissue_00") + store.colours("tissue_01")) / 2)


def test_a_centre_that_lacks_half_lends_a_quarter(cases):
    together, store = cases
    centres = {**together.centres, "tissue_04": "west"}
    restaining = taught((replace(together, centres=centres), store), LENDING).restaining
    assert restaining is not None
    # A third of its cases hold the structure, of the central ones two thirds.
    assert [one.share for one in restaining.like] == pytest.approx([0.2 * 0.5**2])


def test_no_colours_are_lent_unasked_nor_where_there_are_none(cases):
    assert taught(cases, replace(LENDING, lent=0.0)).restaining is None
    assert taught(cases, replace(LENDING, apart=True)).restaining is None
    assert (
        taught(cases, LENDING, replace(RGB, normalisation=(Normalisation("zscore"),) * 3)).restaining is None
    )


def test_nothing_is_lent_where_every_centre_shows_what_the_central_cases_show(cases):
    together, store = cases
    east = {case: centre for case, centre in together.centres.items() if centre == "east"}
    assert taught((replace(together, local=frozenset(east), centres=east), store), LENDING).restaining is None


def test_colours_are_lent_to_patches_that_are_not_shown_in_others(cases):
    restaining = taught(cases, replace(LENDING, restained=0.5)).restaining
    assert restaining is not None
    assert [one.share for one in restaining.like] == pytest.approx([0.5, 0.1])
    with pytest.raises(BadInputError, match=r"lent is -0\.1, expected 0 to 1"):
        RetrainingOptions(lent=-0.1)
