"""Claim: a model labels pictures of another place where it is sure, with its statistics, and learns from that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.ensemble.training import train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import read_labelmap, read_volume
from overread.learning import retraining
from overread.learning.central import take_stock
from overread.learning.options import RetrainingOptions
from overread.learning.pseudo_labels import pseudo_cases, pseudo_labelled
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, training_set, with_unlabelled
from support.pictures import EXACT, TINY, tissue, write_tissue

# Two other laboratories.
TINTS = {"east": (0.55, 0.6, 0.8), "west": (0.9, 0.6, 0.6)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members with batch norm."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = read_dataset(write_tissue(folder / "data", 6))
    return train_ensemble("tissue", dataset, folder / "work", EXACT, {**TINY, "norm": "batch", "stain": 0.0})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Pictures of both, wider than high."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    found: dict[str, list[Path]] = {}
    for place, tint in TINTS.items():
        for number in range(3):
            picture, truth = tissue(rng, tint=tint)
            assert picture.shape[0] != picture.shape[1]
            path = folder / f"{place}_{number}.png"
            Image.fromarray(picture).save(path)
            np.save(path.with_suffix(".npy"), truth.T)
            found.setdefault(place, []).append(path)
    return found


def kept(case: LocalCase) -> np.ndarray:
    return read_labelmap(case.label)[0].reshape(read_volume(case.channels).grid.shape)


def test_where_it_is_sure_it_is_mostly_right_and_elsewhere_it_says_nothing(
    trained: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    cases = pseudo_labelled(trained, pictures, tmp_path / "labels", sure=0.7)
    assert [case.centre for case in cases] == ["east"] * 3 + ["west"] * 3
    assert not any(case.protected for case in cases)
    said = np.concatenate([kept(case).ravel() for case in cases])
    truth = np.concatenate([np.load(case.channels[0].with_suffix(".npy")).ravel() for case in cases])
    sure = said != IGNORE
    assert 0.3 < sure.mean() < 1
    assert set(np.unique(said[sure])) == {0, 1}
    # Were rows and columns mixed up, the blobs would lie elsewhere.
    both = (said == 1) & (truth == 1)
    assert both.sum() > 0.8 * (said == 1).sum()
    assert sorted(path.suffix for path in (tmp_path / "labels").iterdir()) == [".gz"] * 6, "no model is left"


def test_it_uses_the_statistics_of_the_place_and_not_its_own(
    trained: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    (first, *_) = pseudo_labelled(trained, {"east": pictures["east"]}, tmp_path / "labels", sure=0.0)
    alone = predict(load_ensemble(trained), read_volume(first.channels), measures=()).labels
    truth = np.load(first.channels[0].with_suffix(".npy"))
    assert (kept(first) != truth).mean() < (alone != truth).mean()


def test_the_same_pictures_give_the_same_labels_and_the_cases_are_known_beforehand(
    trained: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    cases = pseudo_labelled(trained, pictures, tmp_path / "a", heard=lambda done, of: told.append((done, of)))
    again = pseudo_labelled(trained, pictures, tmp_path / "b")
    assert cases == pseudo_cases(pictures, tmp_path / "a")
    assert told == [(number, 6) for number in range(1, 7)]
    for one, other in zip(cases, again, strict=True):
        np.testing.assert_array_equal(kept(one), kept(other))


def test_whoever_hears_of_it_may_end_it(
    trained: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    class EnoughError(Exception):
        pass

    def heard(done: int, of: int) -> None:
        if done == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        pseudo_labelled(trained, pictures, tmp_path / "labels", heard=heard)
    assert len(pseudo_labelled(trained, pictures, tmp_path / "labels")) == 6


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [(0, {"central": 0.5, "pseudo": 0.5}), (1, {"central": 0.5, "pseudo": 0.2, "labelled": 0.3})],
)
def test_its_share_is_what_was_asked_for_and_the_loop_learns_from_it(
    trained: Path,
    pictures: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    labelled: int,
    expected: dict[str, float],
) -> None:
    lessons: list[Any] = []
    train_members = retraining.train_members

    def spying(work: Path, plan: Any, given: Any, *more: Any) -> None:
        lessons.extend(given)
        train_members(work, plan, given, *more)

    monkeypatch.setattr(retraining, "train_members", spying)
    pseudo = pseudo_labelled(trained, pictures, tmp_path / "labels")
    by_readers = [replace(case, id=f"read-{case.id}") for case in pseudo[:labelled]]
    folder = write_tissue(tmp_path / "data", 6)
    central = take_stock(folder, read_dataset(folder), frozenset())
    cases = with_unlabelled(training_set(trained, central, by_readers, 0), pseudo)
    options = RetrainingOptions(iterations=2, pseudo_share=0.4, device="cpu", precision="float32", threads=1)
    challenger = retrain(trained, cases, tmp_path / "work", options)
    assert lessons
    seen = []
    for lesson in lessons:
        found: dict[str, float] = {}
        for pool in lesson.pools:
            kinds = {
                "pseudo"
                if name.startswith("local-pseudo")
                else "labelled"
                if name.startswith("local-")
                else "central"
                for name in pool.cases
            }
            assert len(kinds) == 1
            found[kinds.pop()] = pool.share
        seen.append(found)
    # A member that is kept from the labelled case, to be judged by it, learns from the others all the more.
    assert any(found == pytest.approx(expected) for found in seen)
    assert all(sum(found.values()) == pytest.approx(1) for found in seen)
    told = json.loads((challenger / "ensemble.json").read_text())
    assert told["retraining"]["pseudo_share"] == 0.4
    assert len(told["data"]["local"]) == labelled, "nobody's label is no label"


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"pseudo_share is 1.5, expected 0 to 1"):
        RetrainingOptions(pseudo_share=1.5)
    with pytest.raises(BadInputError, match="exclude each other"):
        RetrainingOptions(pseudo_share=0.5, apart=True)
