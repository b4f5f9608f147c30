"""What counts as right when raters differ."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.raters.ground_truth import agree_at_pixel, draw_ground_truth, fused

# Four raters, three voxels: all, half, nobody.
MASKS = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)


def test_at_least_half_of_those_asked_decide():
    assert fused(MASKS, [0, 1, 2, 3]).mask.tolist() == [True, True, False]
    assert fused(MASKS, [0, 2, 3]).mask.tolist() == [True, False, False]


def test_one_rater_is_right():
    truth = fused(MASKS, [2])
    assert truth.mask.tolist() == MASKS[2].tolist()
    assert truth.raters == (2,)


def test_the_same_case_number_and_repetition_give_the_same_truth():
    first, second = (draw_ground_truth(MASKS, 2, "case01", 3) for _ in range(2))
    assert first.raters == second.raters
    assert np.array_equal(first.mask, second.mask)


def test_every_subset_is_drawn_about_as_often():
    drawn = Counter(draw_ground_truth(MASKS, 2, "case01", repetition).raters for repetition in range(1200))
    assert len(drawn) == 6
    # 200 each; five standard deviations are 65.
    assert all(135 < count < 265 for count in drawn.values())


def test_cases_draw_apart():
    drawn = {draw_ground_truth(MASKS, 2, f"case{number}").raters for number in range(50)}
    assert len(drawn) == 6


def test_all_raters_are_the_one_truth_of_all():
    assert draw_ground_truth(MASKS, 4, "case01").raters == (0, 1, 2, 3)


def test_more_raters_than_there_are_cannot_be_drawn():
    with pytest.raises(BadInputError, match="case a has 4 raters, a truth of 5 cannot be drawn"):
        draw_ground_truth(MASKS, 5, "a")
    with pytest.raises(BadInputError, match="a truth of 0"):
        draw_ground_truth(MASKS, 0, "a")
    with pytest.raises(BadInputError, match="repetition -1"):
        draw_ground_truth(MASKS, 1, "a", -1)


def test_raters_that_are_not_there_cannot_be_fused():
    with pytest.raises(BadInputError, match=r"raters \[4\] cannot be fused, there are 0\.\.3"):
        fused(MASKS, [4])
    with pytest.raises(BadInputError, match=r"raters \[\] cannot be fused"):
        fused(MASKS, [])


def test_masks_must_be_bool():
    for wrong in (MASKS.astype(np.uint8), MASKS[:0], MASKS[0]):
        with pytest.raises(BadInputError, match="masks of raters are bool"):
            agree_at_pixel(wrong, np.random.default_rng(0))


def test_agreement_at_a_pixel_takes_the_raters_of_one_side():
    masks = np.array([[1, 1], [1, 1], [1, 0]], bool)
    generator = np.random.default_rng(0)
    drawn = Counter(agree_at_pixel(masks, generator).raters for _ in range(4000))
    assert set(drawn) == {(0, 1, 2), (0, 1), (2,)}
    # The disputed pixel comes up in .8 + .2 / 2 = .9 of the draws, its majority in .8 of those.
    assert drawn[(0, 1)] / 4000 == pytest.approx(0.72, abs=0.035)
    assert drawn[(2,)] / 4000 == pytest.approx(0.18, abs=0.03)


def test_agreement_of_raters_who_never_differ_takes_all():
    masks = np.ones((3, 2, 2), bool)
    generator = np.random.default_rng(1)
    assert {agree_at_pixel(masks, generator).raters for _ in range(50)} == {(0, 1, 2)}


def test_a_tie_at_the_pixel_is_foreground():
    masks = np.array([[1], [0]], bool)
    generator = np.random.default_rng(2)
    drawn = Counter(agree_at_pixel(masks, generator).raters for _ in range(2000))
    assert drawn[(0,)] / 2000 == pytest.approx(0.8, abs=0.05)
