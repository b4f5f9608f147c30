"""Calibration error is the gap between how sure and how right, near the structures that matter."""

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.metrics.calibration import (
    expected_calibration_error,
    foreground_region,
    plot_reliability,
    reliability,
)


def right(share: float, count: int) -> np.ndarray:
    return np.arange(count) < round(share * count)


def test_is_zero_when_as_many_are_right_as_the_confidence_says():
    assert expected_calibration_error(np.full(100, 0.8), right(0.8, 100)) == pytest.approx(0)


def test_is_the_gap_where_all_are_equally_sure():
    assert expected_calibration_error(np.full(100, 0.9), right(0.6, 100)) == pytest.approx(0.3)


def test_bins_weigh_by_their_voxels():
    # 300 voxels with a gap of 0.1, 100 with a gap of 0.5.
    confidence = np.concatenate([np.full(300, 0.6), np.full(100, 1.0)])
    correct = np.concatenate([right(0.5, 300), right(0.5, 100)])
    assert expected_calibration_error(confidence, correct) == pytest.approx((300 * 0.1 + 100 * 0.5) / 400)


def test_over_and_under_confidence_cancel_within_a_bin_only():
    confidence = np.array([0.55, 0.95])
    correct = np.array([True, False])
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0.25)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.25)
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx((0.45 + 0.95) / 2)


def test_a_bin_holds_its_upper_edge_and_zero_is_in_the_first():
    diagram = reliability(np.array([0.0, 0.25, 0.26, 0.5, 0.75, 1.0]), np.ones(6, dtype=bool), bins=4)
    assert diagram.voxels.tolist() == [2, 2, 1, 1]
    assert diagram.confidence.tolist() == pytest.approx([0.125, 0.38, 0.75, 1.0])


def test_an_empty_bin_has_no_accuracy_and_no_weight():
    diagram = reliability(np.full(10, 0.9), right(0.9, 10), bins=2)
    assert diagram.voxels.tolist() == [0, 10]
    assert np.isnan(diagram.accuracy[0])
    assert np.isnan(diagram.confidence[0])
    assert diagram.expected_calibration_error == pytest.approx(0)


def test_shape_does_not_matter_and_half_precision_may_exceed_one_a_little():
    confidence = np.full((4, 5), 1.004, dtype=np.float16)
    assert expected_calibration_error(confidence, np.ones((4, 5), dtype=bool)) == 0


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [
        (np.ones(3), np.ones(4, dtype=bool)),
        (np.ones(3), np.ones(3)),
        (np.ones(0), np.ones(0, dtype=bool)),
    ],
)
def test_refuses_confidences_without_truth(confidence, correct):
    with pytest.raises(BadInputError, match="calibration needs truth values for each confidence"):
        reliability(confidence, correct)


@pytest.mark.parametrize("bad", [3.2, -0.5, np.nan])
def test_refuses_logits(bad):
    with pytest.raises(BadInputError, match=r"expected 0\.\.1; are these logits"):
        reliability(np.array([0.5, bad]), np.array([True, False]))


def test_refuses_no_bins():
    with pytest.raises(BadInputError, match="at least 1 bin, got 0"):
        reliability(np.array([0.5]), np.array([True]), bins=0)


def test_the_region_reaches_the_margin_in_millimetres_along_each_axis():
    labels = np.zeros((21, 21, 21), dtype=np.uint8)
    labels[10, 10, 10] = 2
    region = foreground_region(labels, spacing_mm=(1.0, 2.0, 6.0), margin_mm=5.0)
    assert np.flatnonzero(region[:, 10, 10]).tolist() == list(range(5, 16))
    assert np.flatnonzero(region[10, :, 10]).tolist() == [8, 9, 10, 11, 12]
    assert np.flatnonzero(region[10, 10, :]).tolist() == [10]
    # Euclidean: 3 along i and 2 * 2 along j are 5 mm.
    assert region[13, 12, 10]
    assert not region[14, 12, 10]


def test_the_region_takes_in_what_only_one_map_shows_and_stops_at_the_edge():
    predicted, reference = np.zeros((9, 9), dtype=np.uint8), np.zeros((9, 9), dtype=np.uint8)
    predicted[0, 0] = reference[8, 8] = 1
    region = foreground_region(predicted, reference, spacing_mm=(1, 1), margin_mm=1)
    assert region.sum() == 6
    assert region[0, 1]
    assert region[7, 8]
    assert not foreground_region(predicted, spacing_mm=(1, 1), margin_mm=1)[8, 8]


def test_the_region_of_nothing_is_empty():
    assert not foreground_region(np.zeros((5, 5), dtype=np.uint8), spacing_mm=(1, 1)).any()


@pytest.mark.parametrize("shapes", [[], [(2, 2), (3, 2)]])
def test_refuses_a_region_of_maps_that_do_not_fit(shapes):
    with pytest.raises(BadInputError, match="a region needs label maps of one shape"):
        foreground_region(*[np.zeros(s, dtype=np.uint8) for s in shapes], spacing_mm=(1, 1))


def test_refuses_a_spacing_of_other_axes():
    with pytest.raises(BadInputError, match="2 axes need as many spacings"):
        foreground_region(np.zeros((3, 3), dtype=np.uint8), spacing_mm=(1, 1, 1))


def test_the_picture_changes_with_the_calibration(tmp_path):
    calm = reliability(np.full(100, 0.8), right(0.8, 100))
    loud = reliability(np.full(100, 0.95), right(0.5, 100))
    for name, diagrams in (("calm", {"T = 1": calm}), ("both", {"T = 1": calm, "T = 2": loud})):
        plot_reliability(tmp_path / f"{name}.png", diagrams)
    first, second = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("calm", "both")
    )
    assert first.shape == second.shape == (600, 600, 3)
    assert (first != second).any()


def test_refuses_to_draw_nothing(tmp_path):
    with pytest.raises(BadInputError, match="no reliability diagram to draw"):
        plot_reliability(tmp_path / "none.png", {})
