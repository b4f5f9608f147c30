"""A cascade spares as many windows as it can while it loses no more doubt than was stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.ensemble.slides.cascade import (
    Cascade,
    WindowDoubt,
    calibrate_cascade,
    choose_cascade,
    store_cascade,
)
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.ensemble.storage import calibration_from_json, load_ensemble
from support.slides import grey, red_cuts, slide_of, tissue_of


def windows(first: list[float], full: list[float], lost: list[float]) -> WindowDoubt:
    return WindowDoubt(np.array(first), np.array(full), np.array(lost))


def test_windows_are_spared_in_the_order_of_doubt_until_too_much_is_lost() -> None:
    one = windows([0.3, 0.1], [30, 10], [6, 1])
    two = windows([0.2, 0.4], [20, 40], [2, 0])
    assert choose_cascade([one, two], 0.03) == Cascade(0.3, 0.03, 0.5, 4, 2)
    assert choose_cascade([one, two], 0.02) == Cascade(0.2, 0.01, 0.25, 4, 2)
    assert choose_cascade([one, two], 0.0) == Cascade(0.1, 0.0, 0.0, 4, 2)


def test_equal_doubt_is_spared_together_or_not_at_all() -> None:
    tied = windows([0.1, 0.2, 0.2], [10, 10, 10], [0, 0, 9])
    assert choose_cascade([tied], 0.1) == Cascade(0.2, 0.0, 1 / 3, 3, 1)


def test_nothing_beyond_the_most_doubtful_window_is_spared() -> None:
    cascade = choose_cascade([windows([0.1, 0.2], [1, 1], [0, 0])], 0.01)
    assert cascade.spared_share == 1
    assert np.float32(0.2) < np.float32(cascade.threshold) < 0.2001


def test_it_keeps_its_word_on_the_slide_it_was_measured_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    red = np.full((128, 256), 180) + rng.integers(0, 20, (128, 256))
    red[:, 128:] -= 80
    slide = slide_of(tmp_path / "slide.tif", grey(red))
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 3, -3), sharpness=0.3)
    tissue = tissue_of(slide)
    cascade = calibrate_cascade(ensemble, [slide], 0.01, tissues=[tissue])
    assert cascade.lost_share <= 0.01
    assert 0.3 < cascade.spared_share < 1
    full = predict_slide(ensemble, slide, tissue=tissue)
    fast = predict_slide(ensemble, slide, tissue=tissue, options=SlideOptions(cascade=cascade.threshold))
    assert fast.report.spared == pytest.approx(cascade.spared_share)
    doubt, kept = (found.maps.maps["predictive_entropy"].astype(np.float64).sum() for found in (full, fast))
    assert kept >= (1 - 0.02) * doubt


def test_it_is_kept_with_the_ensemble(tmp_path: Path) -> None:
    before = red_cuts(tmp_path / "red", offsets=(0, 1))
    assert before.calibration.cascade is None
    cascade = Cascade(0.25, 0.01, 0.8, 100, 3)
    identity = store_cascade(tmp_path / "red", cascade)
    after = load_ensemble(tmp_path / "red")
    assert after.calibration.cascade == cascade
    assert after.identity == identity != before.identity


def test_calibrations_from_before_there_were_cascades_load() -> None:
    assert calibration_from_json({"temperature": 2.0, "bands": {}}).cascade is None


def test_what_makes_no_cascade_is_named(tmp_path: Path) -> None:
    slide = slide_of(tmp_path / "slide.tif", grey(np.zeros((32, 32))))
    with pytest.raises(BadInputError, match="red has one member"):
        calibrate_cascade(red_cuts(tmp_path / "red"), [slide], tissues=[tissue_of(slide)])
    with pytest.raises(BadInputError, match="needs windows with tissue"):
        choose_cascade([])
    with pytest.raises(BadInputError, match=r"got 1\.5"):
        choose_cascade([windows([0.1], [1], [1])], 1.5)
    with pytest.raises(BadInputError, match="got -1"):
        Cascade(-1, 0, 0, 0, 0)
