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
    windows_doubt,
)
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.ensemble.slides.validation import CascadeFound, calibrate_on_slides
from overread.ensemble.storage import (
    calibration_from_json,
    load_ensemble,
    read_description,
    write_description,
)
from overread.imaging.dataset import Dataset
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


def test_of_a_large_slide_some_windows_are_enough_and_always_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    slide = slide_of(tmp_path / "slide.tif", grey(rng.integers(60, 140, (256, 256))))
    ensemble = red_cuts(tmp_path / "red", (100,), (0, 3, -3), sharpness=0.3)
    tissue, heard = tissue_of(slide), []
    every = windows_doubt(ensemble, slide, tissue)
    some = windows_doubt(ensemble, slide, tissue, most=40, progress=heard.append)
    assert len(some.first) == 40 < len(every.first)
    assert set(some.first.tolist()) <= set(every.first.tolist())
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    again = windows_doubt(ensemble, slide, tissue, most=40)
    np.testing.assert_array_equal(some.first, again.first)
    assert calibrate_cascade(ensemble, [slide, slide], tissues=[tissue] * 2, most_windows=50).windows == 50


TISSUE, EDGE = (200, 120, 170), 256


def purple(path: Path, seed: int) -> Path:
    """A slide of tissue whose red channel is uneven on the right, with glass round it."""
    picture = np.full((EDGE, 2 * EDGE, 3), 245, np.uint8)
    picture[16:-16, 16:-16] = TISSUE
    uneven = np.random.default_rng(seed).integers(80, 130, (EDGE - 32, EDGE - 16))
    picture[16:-16, EDGE:-16, 0] = uneven
    slide_of(path, picture).close()
    return path


def trained(folder: Path, held_out: list[list[str]], offsets: tuple[float, ...] = (0, 3, -3)) -> Path:
    """An ensemble that names the cases that its members did not learn from."""
    red_cuts(folder, (100,), offsets, sharpness=0.3)
    description = read_description(folder)
    write_description(folder, {**description, "plan": {**description["plan"], "held_out": held_out}})
    return folder


def pictures(slides: dict[str, Path], um: float | None = 1.0) -> Dataset:
    """A data set of which only the slides matter."""
    return Dataset("d", ("background", "tumour"), ("R", "G", "B"), (), 0, {}, um, slides)


def found(folder: Path, dataset: Dataset) -> CascadeFound:
    answer = calibrate_on_slides(folder, dataset)
    assert answer is not None
    return answer


def test_a_trained_ensemble_gets_its_cascade_from_slides_that_nobody_learnt_from(tmp_path: Path) -> None:
    seen, unseen = purple(tmp_path / "seen.tif", 0), purple(tmp_path / "unseen.tif", 1)
    slides = {"a": seen, "b": seen, "c": unseen, "d": unseen}
    folder = trained(tmp_path / "red", [["b", "c", "d"]] * 3)
    answer = found(folder, pictures(slides))
    assert answer.cascade is not None
    assert answer.cascade.slides == 1
    assert 0 < answer.cascade.spared_share < 1
    assert answer.cascade.lost_share <= 0.01
    assert load_ensemble(folder).calibration.cascade == answer.cascade
    assert answer.words.startswith("Cascade: where the first member's doubt is below ")
    assert (
        f"{answer.cascade.spared_share:.0%} of {answer.cascade.windows} windows of 1 validation slide"
        in answer.words
    )
    assert answer.words.endswith(f"and lost {answer.cascade.lost_share:.2%} of the doubt.")


@pytest.mark.parametrize(
    ("held_out", "named", "words"),
    [
        (
            [["c"]] * 3,
            {},
            "the data set names no slides (dataset.json: slides) that its pictures were cut from.",
        ),
        ([["c"], ["c"], []], {"c": "one"}, "every slide that the data set names has taught some member."),
        ([[]] * 3, {"c": "one"}, "every slide that the data set names has taught some member."),
        ([["c"]] * 3, {"c": "gone"}, "gone.tif does not exist."),
        ([["c"]] * 3, {"c": "glass"}, "a cascade needs windows with tissue on validation slides, got none."),
    ],
)
def test_without_such_slides_all_members_are_asked_and_it_says_why(
    tmp_path: Path, held_out: list[list[str]], named: dict[str, str], words: str
) -> None:
    purple(tmp_path / "one.tif", 0)
    slide_of(tmp_path / "glass.tif", np.full((EDGE, EDGE, 3), 245, np.uint8)).close()
    folder = trained(tmp_path / "red", held_out)
    answer = found(folder, pictures({case: tmp_path / f"{name}.tif" for case, name in named.items()}))
    assert answer.cascade is None
    assert answer.words.startswith("The cascade stays off, and all members are asked everywhere: ")
    assert answer.words.endswith(words)
    assert load_ensemble(folder).calibration.cascade is None


def test_one_member_needs_no_cascade_and_volumes_have_none(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", [["c"]], offsets=(0,))
    assert found(one, pictures({})).words.startswith("No cascade: there is one member")
    description = read_description(one)
    plan = {key: value for key, value in description["plan"].items() if key != "um_per_px"}
    write_description(one, {**description, "plan": plan})
    assert calibrate_on_slides(one, pictures({}, um=None)) is None
