"""Several raters' label maps become one: by votes, or weighted by how reliable each rater shows to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.raters.fusion import majority, staple

FUSIONS = pytest.mark.parametrize("fuse", [majority, staple])
CUBE = (slice(10, 20), slice(10, 20), slice(10, 20))


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def cube(shape: tuple[int, int, int] = (30, 30, 30), shift: int = 0) -> np.ndarray:
    """A cube of class 1 with a corner of class 2."""
    labels = np.zeros(shape, np.uint8)
    labels[CUBE] = 1
    labels[15:20, 15:20, 15:20] = 2
    return np.roll(labels, shift, axis=0)


def test_two_of_three_decide():
    assert majority([row(0, 1, 2, 2), row(0, 1, 1, 2), row(1, 0, 1, 2)], 3).tolist() == [0, 1, 1, 2]


def test_a_tie_is_left_open():
    assert majority([row(0, 1, 1), row(1, 2, 1)], 3).tolist() == [IGNORE, IGNORE, 1]
    # Of 0, 0, 1, 1, 2 nobody knows; of 0, 1, 2, 2 it is 2.
    assert majority([row(0, 0), row(0, 1), row(1, 2), row(1, 2), row(2, 2)], 3).tolist() == [IGNORE, 2]


def test_who_did_not_label_has_no_vote():
    votes = [row(IGNORE, IGNORE, 1, IGNORE), row(2, IGNORE, 1, 0), row(2, IGNORE, 0, 1)]
    assert majority(votes, 3).tolist() == [2, IGNORE, 1, IGNORE]


@FUSIONS
def test_one_rater_is_right(fuse):
    label = cube()
    label[0] = IGNORE
    np.testing.assert_array_equal(fuse([label], 3), label)


@FUSIONS
def test_raters_who_agree_are_right(fuse):
    np.testing.assert_array_equal(fuse([cube(), cube(), cube()], 3), cube())


@FUSIONS
def test_no_foreground_stays_none_and_what_nobody_labelled_stays_open(fuse):
    empty = np.zeros((4, 4, 4), np.uint8)
    empty[0] = IGNORE
    np.testing.assert_array_equal(fuse([empty, empty], 2), empty)


@FUSIONS
@given(
    arrays.arrays(np.uint8, (3, 4, 3), elements=st.sampled_from([0, 1, 2, IGNORE])), st.permutations(range(3))
)
@settings(max_examples=25, deadline=None)
def test_the_order_of_raters_does_not_matter(fuse, labels, order):
    before = labels.copy()
    fused = fuse(list(labels), 3)
    np.testing.assert_array_equal(fuse([labels[i] for i in order], 3), fused)
    np.testing.assert_array_equal(labels, before)
    assert set(np.unique(fused)) <= {0, 1, 2, IGNORE}
    np.testing.assert_array_equal(fused[(labels == IGNORE).all(axis=0)], IGNORE)


def test_staple_trusts_the_two_who_agree_more_than_the_one_who_misses_half():
    careless = cube()
    careless[15:20] = 0
    np.testing.assert_array_equal(staple([cube(), cube(), careless], 3), cube())


def test_staple_finds_a_structure_that_most_raters_missed_where_their_misses_are_known():
    # Two raters see one voxel in three, the third all of them and never too much: the majority sees nothing.
    truth = np.zeros((9, 10, 10), np.uint8)
    truth[2:8, 3:7, 3:7] = 1
    partial = []
    for offset in (0, 1):
        seen = truth.copy()
        seen[[n for n in range(9) if n % 3 != offset]] = 0
        partial.append(seen)
    assert not majority([*partial, truth], 2)[5].any()
    np.testing.assert_array_equal(staple([*partial, truth], 2), truth)


def test_staple_does_not_depend_on_how_much_background_is_around():
    raters = [cube(shift=shift) for shift in (0, 1, 2, -3)]
    small = staple(raters, 3)
    large = staple([np.pad(label, 40) for label in raters], 3)
    np.testing.assert_array_equal(large[40:-40, 40:-40, 40:-40], small)


def test_staple_decides_what_one_rater_left_out_by_the_others():
    part = cube()
    part[:15] = IGNORE
    np.testing.assert_array_equal(staple([cube(), part, cube()], 3), cube())


def test_staple_falls_back_to_votes_where_no_voxel_was_labelled_by_all():
    first, second = cube(), cube()
    first[:15], second[15:] = IGNORE, IGNORE
    np.testing.assert_array_equal(staple([first, second], 3), cube())


def test_raters_who_contradict_each_other_everywhere_leave_it_open():
    assert majority([row(0, 1), row(1, 0)], 2).tolist() == [IGNORE, IGNORE]
    assert staple([row(0, 1), row(1, 0)], 2).tolist() == [IGNORE, IGNORE]


@FUSIONS
def test_what_cannot_be_fused_is_refused(fuse):
    with pytest.raises(BadInputError, match="there is no label map to fuse"):
        fuse([], 2)
    with pytest.raises(BadInputError, match=r"label map 2 of 2 has shape \(3,\), the first \(2,\)"):
        fuse([row(0, 1), row(0, 1, 1)], 2)
    with pytest.raises(BadInputError, match=r"label map 1 of 1 holds 3, expected 0\.\.2 or 255"):
        fuse([row(0, 3)], 3)
    with pytest.raises(BadInputError, match="255 classes cannot be fused"):
        fuse([row(0)], 255)
