"""Overlap and surface distance are those on paper, and absence is answered as the caller asked."""

import numpy as np
import pytest
import torch
from monai.metrics.meandice import compute_dice

from overread.domain import BadInputError
from overread.metrics.overlap import dice, hausdorff95_mm, surface_dice


def box(start: int, stop: int, size: int = 20, axes: int = 3) -> np.ndarray:
    labels = np.zeros((size,) * axes, dtype=np.uint8)
    labels[(slice(start, stop),) * axes] = 1
    return labels


def test_dice_of_each_foreground_class():
    predicted = np.array([[1, 1, 0, 2], [1, 2, 2, 0]])
    reference = np.array([[1, 1, 1, 2], [0, 2, 0, 0]])
    # Class 1: overlap 2 of 3 and 3. Class 2: overlap 2 of 3 and 2.
    assert dice(predicted, reference, 3, both_empty=1.0).tolist() == pytest.approx([4 / 6, 4 / 5])


def test_dice_of_a_class_that_one_of_both_lacks_is_zero():
    assert dice(np.array([1, 0]), np.array([0, 0]), 2, both_empty=1.0).tolist() == [0]
    assert dice(np.array([0, 0]), np.array([0, 1]), 2, both_empty=1.0).tolist() == [0]


def test_dice_of_a_class_that_both_lack_is_what_the_caller_says():
    nothing = np.zeros((3, 3), dtype=np.uint8)
    assert dice(nothing, nothing, 3, both_empty=1.0).tolist() == [1, 1]
    assert np.isnan(dice(nothing, nothing, 3, both_empty=float("nan"))).all()


def test_dice_agrees_with_monai():
    rng = np.random.default_rng(0)
    predicted, reference = rng.integers(0, 4, (2, 9, 8, 7), dtype=np.uint8)

    def one_hot(labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([labels == c for c in range(4)])[None])

    expected = compute_dice(one_hot(predicted), one_hot(reference), include_background=False)
    assert dice(predicted, reference, 4, both_empty=1.0) == pytest.approx(expected[0].numpy(), abs=1e-6)


def test_hausdorff_distance_of_a_shifted_box_is_the_shift_in_millimetres():
    moved = np.roll(box(5, 12), 3, axis=0)
    assert hausdorff95_mm(moved, box(5, 12), 2, (2.0, 1.0, 1.0)).tolist() == [6.0]
    assert hausdorff95_mm(box(5, 12), box(5, 12), 2, (2.0, 1.0, 1.0)).tolist() == [0.0]


def test_there_is_no_distance_to_nothing():
    assert np.isnan(hausdorff95_mm(box(0, 0), box(5, 12), 2, (1, 1, 1))).all()
    assert np.isnan(hausdorff95_mm(box(5, 12), box(0, 0), 2, (1, 1, 1))).all()


def test_surface_dice_is_one_within_the_tolerance_and_zero_far_from_it():
    moved = np.roll(box(5, 10), 1, axis=0)
    assert surface_dice(moved, box(5, 10), 2, (1, 1, 1)).tolist() == [1.0]
    assert surface_dice(np.roll(box(0, 3), 12, axis=0), box(0, 3), 2, (1, 1, 1)).tolist() == [0.0]


def test_surface_dice_counts_the_share_of_the_surface_in_tolerance():
    # Flat boxes one above the other, 4 mm apart in height: the tops disagree, the bottoms agree.
    low, high = np.zeros((30, 30, 12), dtype=np.uint8), np.zeros((30, 30, 12), dtype=np.uint8)
    low[2:28, 2:28, 2:4] = 1
    high[2:28, 2:28, 2:8] = 1
    (share,) = surface_dice(high, low, 2, (1, 1, 1), tolerance_mm=1.0)
    assert 0.4 < share < 0.7


def test_surface_dice_of_absence():
    assert np.isnan(surface_dice(box(0, 0), box(0, 0), 2, (1, 1, 1))).all()
    assert surface_dice(box(0, 0), box(2, 5), 2, (1, 1, 1)).tolist() == [0]


def test_pictures_work_as_well():
    moved = np.roll(box(5, 12, axes=2), 2, axis=1)
    assert hausdorff95_mm(moved, box(5, 12, axes=2), 2, (1.0, 0.5)).tolist() == [1.0]
    assert surface_dice(moved, box(5, 12, axes=2), 2, (1.0, 0.5)).tolist() == [1.0]


def test_refuses_maps_that_do_not_fit():
    with pytest.raises(BadInputError, match=r"the prediction is \(2,\), the reference \(3,\)"):
        dice(np.zeros(2, dtype=int), np.zeros(3, dtype=int), 2, both_empty=1.0)


def test_refuses_probabilities():
    with pytest.raises(BadInputError, match="the prediction must hold class numbers, got float64"):
        dice(np.zeros(2), np.zeros(2, dtype=int), 2, both_empty=1.0)


def test_refuses_a_class_that_does_not_exist():
    with pytest.raises(BadInputError, match=r"the reference holds 0\.\.2, expected 0\.\.1"):
        dice(np.array([0, 1]), np.array([0, 2]), 2, both_empty=1.0)
