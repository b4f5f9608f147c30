"""On a slide, a MedUHIP model's doubt is style where components differ and within where one of them is undecided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.ensemble.ensemble import KindsOfDoubt
from overread.ensemble.slides.maps import KEPT_MEASURES, SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, glance, predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import Slide
from overread.meduhip.doubt import OF_ONE_NETWORK, split_draws
from support.slide_styles import write_slide_styles
from support.slides import grey, red_cuts, slide_of, tissue_of

SURE = 10.0
# Probabilities of exactly 0 and 1.
CERTAIN = 200.0


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    return slide_of(tmp_path / "slide.tif", grey(np.full((96, 160), 120)))


def logits_of(*draws: float) -> torch.Tensor:
    """`(draw, class, 1, 2)` of one structure, the same at both pixels."""
    field = torch.tensor(draws)[:, None, None, None].expand(-1, 1, 1, 2)
    return torch.cat([torch.zeros_like(field), field], dim=1)


def test_draws_of_different_components_that_disagree_are_style_alone():
    style, within = split_draws(logits_of(-CERTAIN, CERTAIN), [(0, 1)])
    assert torch.allclose(style, torch.tensor(0.25))
    assert not within.any()


def test_draws_of_one_component_that_disagree_are_doubt_within():
    style, within = split_draws(logits_of(-CERTAIN, CERTAIN), [(3, 3)])
    assert torch.allclose(within, torch.tensor(0.25))
    assert not style.any()
    # What each draw leaves open is within, too.
    assert torch.allclose(split_draws(logits_of(0, 0), [(0, 1)])[1], torch.tensor(0.25))


def test_structures_have_their_own_lineage_and_are_summed():
    one = logits_of(-CERTAIN, CERTAIN)
    both = torch.cat([one, one[:, 1:]], dim=1)
    style, within = split_draws(both, [(0, 1), (2, 2)])
    assert torch.allclose(style, torch.tensor(0.25))
    assert torch.allclose(within, torch.tensor(0.25))


def test_where_only_the_first_draws_speak_only_they_count():
    style, within = split_draws(logits_of(-CERTAIN, CERTAIN), [(0, 1, 1, 1, 2)])
    assert torch.allclose(style, torch.tensor(0.25))
    assert not within.any()


def test_what_is_counted_as_logits_of_a_background_does_not_matter():
    shifted = logits_of(-2, 1) + torch.tensor([3.0, -7.0])[:, None, None, None]
    assert torch.allclose(split_draws(shifted, [(0, 1)]), split_draws(logits_of(-2, 1), [(0, 1)]))


@pytest.mark.parametrize(
    ("lineage", "kind", "other"), [((0, 1), "style", "within"), ((1, 1), "within", "style")]
)
def test_cells_hold_the_kinds_where_the_members_differ(tmp_path: Path, lineage, kind, other):
    kinds = KindsOfDoubt(OF_ONE_NETWORK, lambda logits: split_draws(logits, [lineage]))
    ensemble = replace(red_cuts(tmp_path / "red", (100,), (0, 40), sharpness=9), kinds=kinds)
    stripes = np.repeat([50, 120, 200, 90], 16)
    opened = slide_of(tmp_path / "stripes.tif", grey(np.tile(stripes, (32, 1))))
    maps = predict_slide(ensemble, opened, tissue=tissue_of(opened)).maps
    np.testing.assert_allclose(maps.maps[kind][0, ::2], [0, 0.25, 0, 0], atol=1e-3)
    assert not maps.maps[other].any()
    # Where the cascade spares the second member, the first speaks for both.
    spared = predict_slide(
        ensemble, opened, tissue=tissue_of(opened), options=SlideOptions(cascade=100.0)
    ).maps
    assert not spared.maps[kind].any()


def test_every_draw_of_a_model_is_of_the_component_that_its_lineage_says(tmp_path: Path):
    # Seven components for eight draws: which one has two of them depends on the structure's seed.
    logits = ((-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0), (5.0, 1.0, -4.0, 3.0, -1.0, -3.0, -5.0))
    write_slide_styles(tmp_path / "styles", logits)
    ensemble = load_ensemble(tmp_path / "styles")
    shared = ensemble.members[0]._shared  # type: ignore[attr-defined]
    assert len(shared.lineage) == 2
    for windows in (torch.zeros(1, 3, 64, 64), torch.randn(2, 3, 64, 64)):
        for index, member in enumerate(ensemble.members):
            said = member(windows)[:, 1:, 5, 5]
            for structure, components in enumerate(shared.lineage):
                expected = torch.tensor(logits[structure][components[index]])
                # A component's deviation is 0.03.
                assert torch.allclose(said[:, structure], expected, atol=0.2)
    assert {component for components in shared.lineage for component in components} == set(range(7))
    assert shared.lineage[0] != shared.lineage[1]


@pytest.mark.parametrize(
    ("logits", "style", "within"),
    [((-SURE, SURE), 0.25, 0.0), ((0.0, 0.0), 0.0, 0.25), ((SURE, SURE), 0.0, 0.0)],
)
def test_a_look_and_a_glance_keep_both_parts(slide: Slide, tmp_path: Path, logits, style, within):
    write_slide_styles(tmp_path / "styles", (logits,))
    ensemble, tissue = load_ensemble(tmp_path / "styles"), tissue_of(slide)
    looked = predict_slide(ensemble, slide, tissue=tissue).maps
    glanced = glance(ensemble, slide, tissue, 0.0, np.random.default_rng(0))
    looked.save(tmp_path / "maps.npz")
    for maps in (looked, glanced, SlideMaps.load(tmp_path / "maps.npz")):
        np.testing.assert_allclose(maps.maps["style"], style, atol=2e-3)
        np.testing.assert_allclose(maps.maps["within"], within, atol=2e-3)


def test_a_softer_temperature_moves_doubt_from_style_to_within(slide: Slide, tmp_path: Path):
    write_slide_styles(tmp_path / "styles", ((-SURE, SURE),))
    ensemble = load_ensemble(tmp_path / "styles")
    softer = replace(ensemble, calibration=replace(ensemble.calibration, temperature=SURE))
    maps = predict_slide(softer, slide, tissue=tissue_of(slide)).maps
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(maps.maps["style"], (p - 0.5) ** 2, atol=5e-3)
    np.testing.assert_allclose(maps.maps["within"], p * (1 - p), atol=5e-3)


def test_other_ensembles_keep_what_they_kept(slide: Slide, tmp_path: Path):
    ensemble, tissue = red_cuts(tmp_path / "red", offsets=(0, 30)), tissue_of(slide)
    assert ensemble.kinds is None
    assert tuple(predict_slide(ensemble, slide, tissue=tissue).maps.maps) == KEPT_MEASURES
    assert tuple(glance(ensemble, slide, tissue, 0.0, np.random.default_rng(0)).maps) == KEPT_MEASURES


def test_maps_of_an_earlier_version_are_gone_on_with_and_get_no_parts(slide: Slide, tmp_path: Path):
    write_slide_styles(tmp_path / "styles", ((-SURE, SURE),))
    ensemble = load_ensemble(tmp_path / "styles")
    earlier = SlideMaps.empty(
        slide, replace(ensemble, kinds=None, asked_by="predictive_entropy"), tissue_of(slide)
    )
    maps = predict_slide(ensemble, slide, maps=earlier).maps
    assert maps.known.all()
    assert tuple(maps.maps) == KEPT_MEASURES
    assert float(maps.maps["mutual_information"].min()) > 0.5
