"""The robot rater is right unless told how to err, errs as told, and the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.raters.robot import RobotRater

SPACING_MM = (1.0, 1.0, 2.0)


def truth() -> np.ndarray:
    """A big block of class 1 (2000 voxels, 4000 mm³), and specks of classes 1 and 2 (8 voxels, 16 mm³)."""
    labels = np.zeros((60, 40, 20), np.uint8)
    labels[10:30, 10:20, 5:15] = 1
    labels[40:42, 10:12, 5:7] = 1
    labels[50:52, 30:32, 10:12] = 2
    return labels


def test_is_perfect_by_default():
    label = truth()
    label[:, :, 0] = IGNORE
    said = RobotRater().label(label, SPACING_MM, "case")
    np.testing.assert_array_equal(said, label)
    assert said is not label


def test_small_objects_of_every_class_are_missed_and_others_are_not():
    expected = truth()
    expected[40:42], expected[50:52] = 0, 0
    np.testing.assert_array_equal(RobotRater(missed_mm3=17).label(truth(), SPACING_MM, "case"), expected)
    np.testing.assert_array_equal(RobotRater(missed_mm3=16).label(truth(), SPACING_MM, "case"), truth())


def test_objects_that_touch_over_a_corner_are_one():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = 1
    np.testing.assert_array_equal(RobotRater(missed_mm3=2).label(labels, (1, 1, 1), "case"), labels)


def test_the_same_case_is_labelled_the_same_way_and_another_is_not():
    first = RobotRater(jitter_mm=2, seed=3).label(truth(), SPACING_MM, "a")
    np.testing.assert_array_equal(RobotRater(jitter_mm=2, seed=3).label(truth(), SPACING_MM, "a"), first)
    assert (RobotRater(jitter_mm=2, seed=3).label(truth(), SPACING_MM, "b") != first).any()
    assert (RobotRater(jitter_mm=2, seed=4).label(truth(), SPACING_MM, "a") != first).any()


def test_a_plane_is_displaced_by_the_stated_spread():
    # Where the plane x = 100 ends up, over many places: its standard deviation is the jitter's.
    labels = np.zeros((200, 120, 120), np.uint8)
    labels[:100] = 1
    offsets = []
    for seed in range(3):
        said = RobotRater(jitter_mm=3, seed=seed).label(labels, (0.5, 2.0, 2.0), "plane")
        offsets.append(said[50:150].sum(axis=0) * 0.5 - 25)
    assert np.std(offsets) == pytest.approx(3, rel=0.1)
    assert abs(np.mean(offsets)) < 0.5


def test_the_displacement_is_smooth_so_that_a_block_stays_one_piece():
    from scipy import ndimage

    labels = np.zeros((60, 60, 60), np.uint8)
    labels[15:45, 15:45, 15:45] = 1
    said = RobotRater(jitter_mm=1.5).label(labels, (1, 1, 1), "block")
    assert (said != labels).any()
    assert ndimage.label(said)[1] == 1


def test_what_is_not_labelled_stays_so_and_spreads_nowhere():
    label = truth()
    label[20:, :, :8] = IGNORE
    said = RobotRater(jitter_mm=2).label(label, SPACING_MM, "case")
    np.testing.assert_array_equal(said == IGNORE, label == IGNORE)
    assert (said != label).any()


def test_nothing_to_see_stays_nothing():
    empty = np.zeros((5, 5, 5), np.uint8)
    rater = RobotRater(jitter_mm=5, missed_mm3=10)
    np.testing.assert_array_equal(rater.label(empty, (1, 1, 1), "case"), empty)


def test_the_reference_is_not_written_to():
    label = truth()
    RobotRater(jitter_mm=2, missed_mm3=100).label(label, SPACING_MM, "case")
    np.testing.assert_array_equal(label, truth())


def test_errors_that_cannot_be_are_refused():
    with pytest.raises(BadInputError, match="jitter_mm is -1, expected 0 or more"):
        RobotRater(jitter_mm=-1)
    with pytest.raises(BadInputError, match="missed_mm3 is nan"):
        RobotRater(missed_mm3=float("nan"))
    with pytest.raises(BadInputError, match="2 spacings do not fit a label map of 3 axes"):
        RobotRater().label(truth(), (1.0, 1.0), "case")
