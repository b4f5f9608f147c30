"""Distances between sets of masks: exact on sets known by hand, and lawful on any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from overread.domain import BadInputError
from overread.metrics import set_distance as module
from overread.metrics.set_distance import d_match, d_max, d_soft, ged_squared, hm_iou, set_distance

FUNCTIONS = pytest.mark.parametrize("measure", [ged_squared, d_max, d_match, hm_iou, d_soft])


def masks(*rows: str) -> np.ndarray:
    """Masks of a line of voxels, one text of 0 and 1 each."""
    return np.array([[letter == "1" for letter in row] for row in rows])


A, B = "1100", "0110"
EMPTY = "0000"
# A and B share 1 of 3 voxels: IoU 1/3, Dice 1/2.

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(
        arrays.arrays(np.bool_, (sizes[0], 3, 2)), arrays.arrays(np.bool_, (sizes[1], 3, 2))
    )
)


def test_one_mask_against_one_rater():
    assert ged_squared(masks(A), masks(B)) == pytest.approx(2 * 2 / 3)
    assert d_max(masks(A), masks(B)) == pytest.approx(1 / 2)
    assert d_match(masks(A), masks(B)) == pytest.approx(1 / 2)
    assert hm_iou(masks(A), masks(B)) == pytest.approx(1 / 3)
    assert d_soft(masks(A), masks(B)) == pytest.approx(1 / 2)


def test_energy_distance_counts_a_mask_with_itself():
    # Between: d = 0 and 2/3, mean 1/3. Within the samples: 0. Within the raters: 0, 2/3, 2/3, 0, mean 1/3.
    assert ged_squared(masks(A), masks(A, B)) == pytest.approx(2 / 3 - 0 - 1 / 3)


def test_two_empty_masks_agree_and_an_empty_one_disagrees_with_all_others():
    assert ged_squared(masks(EMPTY), masks(EMPTY)) == 0
    assert ged_squared(masks(EMPTY), masks(A)) == 2
    assert d_max(masks(EMPTY), masks(EMPTY, A)) == pytest.approx(1 / 2)
    assert hm_iou(masks(EMPTY, A), masks(A, EMPTY)) == 1
    assert d_soft(masks(EMPTY), masks(EMPTY)) == 1


def test_d_max_asks_whether_every_rater_is_spoken_for_and_its_reverse_whether_every_sample_speaks():
    samples, raters = masks(A, A, "0001"), masks(A, B)
    assert d_max(samples, raters) == pytest.approx((1 + 1 / 2) / 2)
    assert d_max(raters, samples) == pytest.approx((1 + 1 + 0) / 3)


def test_matching_gives_each_rater_its_share_of_the_samples():
    # Of four samples two go to each rater; the best can serve A twice and B with one B and one A.
    samples, raters = masks(A, A, A, B), masks(A, B)
    assert d_match(samples, raters) == pytest.approx((1 + 1 + 1 + 1 / 2) / 4)
    assert hm_iou(samples, raters) == pytest.approx((1 + 1 + 1 + 1 / 3) / 4)


def test_matching_repeats_both_sets_up_to_their_common_multiple():
    # Two samples, three raters: six pairs; each sample serves three times.
    assert d_match(masks(A, B), masks(A, B, B)) == pytest.approx((2 + 3 + 1 * 1 / 2) / 6)


def test_soft_dice_compares_what_equal_shares_of_both_sets_marked():
    # Of two samples A, B the votes are 1 2 1 0. At .1, .3 and .5 that is 1110, at .7 and .9 0100.
    # The rater A is 1100 at each: Dice 4/5 three times, 2/3 twice.
    assert d_soft(masks(A, B), masks(A)) == pytest.approx((3 * 4 / 5 + 2 * 2 / 3) / 5)


def test_three_of_ten_votes_are_thirty_percent():
    ten = np.zeros((10, 1), bool)
    ten[:3] = True
    # Marked at .1 and .3 of both sets; above, neither marks anything.
    assert d_soft(ten, masks("1")) == pytest.approx((1 + 1 + 0 + 0 + 0) / 5)
    assert d_soft(ten, ten) == 1


def test_all_numbers_at_once_are_the_single_ones():
    samples, raters = masks(A, A, B, EMPTY), masks(A, B, "0111")
    together = set_distance(samples, raters)
    assert together.ged_squared == ged_squared(samples, raters)
    assert together.d_max == d_max(samples, raters)
    assert together.d_max_of_samples == d_max(raters, samples)
    assert together.d_match == d_match(samples, raters)
    assert together.hm_iou == hm_iou(samples, raters)
    assert together.d_soft == d_soft(samples, raters)


def test_large_masks_are_counted_in_parts(monkeypatch):
    generator = np.random.default_rng(0)
    samples, raters = generator.random((5, 9, 7)) < 0.4, generator.random((3, 9, 7)) < 0.4
    whole = set_distance(samples, raters)
    monkeypatch.setattr(module, "CHUNK_VOXELS", 10)
    assert set_distance(samples, raters) == whole


@given(pairs)
@settings(deadline=None)
def test_all_are_bounded_and_most_are_symmetric(pair):
    samples, raters = pair
    there, back = set_distance(samples, raters), set_distance(raters, samples)
    assert 0 <= there.ged_squared <= 2
    for name in ("d_max", "d_max_of_samples", "d_match", "hm_iou", "d_soft"):
        assert 0 <= getattr(there, name) <= 1
    for name in ("ged_squared", "d_match", "hm_iou", "d_soft"):
        assert getattr(there, name) == pytest.approx(getattr(back, name))
    assert there.d_max == pytest.approx(back.d_max_of_samples)
    # Whoever chooses freely does no worse than whoever must share.
    assert there.d_max >= there.d_match - 1e-12


@given(arrays.arrays(np.bool_, (3, 4)), st.permutations(range(3)), st.integers(1, 3))
@settings(deadline=None)
def test_the_same_masks_in_the_same_shares_are_at_no_distance(raters, order, times):
    samples = np.tile(raters[list(order)], (times, 1))
    found = set_distance(samples, raters)
    assert found.ged_squared == pytest.approx(0, abs=1e-12)
    assert (found.d_max, found.d_max_of_samples) == (1, 1)
    assert (found.d_match, found.hm_iou, found.d_soft) == (1, 1, 1)


@given(pairs)
@settings(deadline=None)
def test_input_is_untouched(pair):
    samples, raters = pair
    before = samples.copy(), raters.copy()
    set_distance(samples, raters)
    assert np.array_equal(samples, before[0])
    assert np.array_equal(raters, before[1])


@FUNCTIONS
def test_what_is_no_set_of_masks_is_refused(measure):
    with pytest.raises(BadInputError, match=r"samples are bool masks \(sample, \*space\), got uint8"):
        measure(masks(A).astype(np.uint8), masks(A))
    with pytest.raises(BadInputError, match=r"raters are bool masks .* \(0, 4\)"):
        measure(masks(A), masks(A)[:0])
    with pytest.raises(BadInputError, match=r"samples lie over \(4,\), raters over \(3,\)"):
        measure(masks(A), masks("110"))
