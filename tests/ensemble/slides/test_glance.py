"""A first glance says something about all tissue, and most about where it looked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.ensemble.slides.prediction import glance, predict_slide
from support.slides import grey, red_cuts, slide_of, tissue_of


def test_even_without_time_one_window_is_looked_at(tmp_path: Path) -> None:
    slide = slide_of(tmp_path / "slide.tif", grey(np.full((256, 512), 120)))
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 10), sharpness=0.1)
    maps = glance(ensemble, slide, tissue_of(slide), 0.0, np.random.default_rng(0))
    assert maps.is_coarse
    assert maps.known.all()
    whole = predict_slide(ensemble, slide, tissue=tissue_of(slide)).maps
    # The slide is the same everywhere, so one window tells all.
    for name, values in maps.maps.items():
        np.testing.assert_allclose(values, whole.maps[name], atol=2e-3)
    np.testing.assert_allclose(maps.probability, whole.probability, atol=2e-3)
    np.testing.assert_allclose(maps.sizes, whole.sizes, atol=2e-3)


def test_doubt_is_highest_where_it_was_seen(tmp_path: Path) -> None:
    red = np.full((512, 512), 250)
    red[300:420, 60:180] = 103
    slide = slide_of(tmp_path / "slide.tif", grey(red))
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 5), patch=(64, 64), sharpness=0.3)
    mask = np.zeros((64, 64), bool)
    mask[4:60, 4:60] = True
    maps = glance(ensemble, slide, tissue_of(slide, mask), 60.0, np.random.default_rng(0))
    doubt = np.where(maps.known, maps.maps["predictive_entropy"], -1)
    row, column = np.unravel_index(doubt.argmax(), doubt.shape)
    assert 36 <= row <= 53
    assert 6 <= column <= 23
    np.testing.assert_array_equal(maps.known, mask)
    assert not doubt[~mask].max() > 0 or maps.maps["predictive_entropy"][~mask].max() <= np.log(2) + 1e-3


def test_a_slide_without_tissue_stays_unknown(tmp_path: Path) -> None:
    slide = slide_of(tmp_path / "slide.tif", grey(np.full((64, 64), 250)))
    nothing = np.zeros((8, 8), bool)
    maps = glance(red_cuts(tmp_path / "red"), slide, tissue_of(slide, nothing), 1.0, np.random.default_rng(0))
    assert maps.is_coarse
    assert not maps.known.any()
    assert all(np.isfinite(values).all() and not values.any() for values in maps.maps.values())
