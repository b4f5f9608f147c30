"""Raters made up of one person's mask keep their style in every case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from overread.domain import BadInputError, NotFoundError
from overread.raters.pseudo import STYLES, Style, draw_styles, pseudo_masks


def square(size: int = 20, first: int = 5, last: int = 15) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[first:last, first:last] = True
    return mask


def test_without_a_habit_the_reference_comes_back():
    assert np.array_equal(Style().label(square(), (1.0, 1.0)), square())


def test_a_generous_rater_draws_outside_by_millimetres():
    said = Style(offset_mm=2.0).label(square(), (1.0, 1.0))
    # The boundary runs half a pixel outside the last pixel: two more lie within 2 mm of it, a third does not.
    assert said[10].tolist() == square(20, 3, 17)[10].tolist()


def test_millimetres_are_fewer_pixels_where_pixels_are_large():
    said = Style(offset_mm=2.0).label(square(), (1.0, 4.0))
    assert said[:, 10].sum() == 14
    assert said[10].sum() == 10


def test_a_tight_rater_draws_inside():
    said = Style(offset_mm=-2.0).label(square(), (1.0, 1.0))
    assert np.array_equal(said, square(20, 7, 13))


def test_what_erosion_would_make_vanish_keeps_its_core():
    said = Style(offset_mm=-50.0).label(square(), (1.0, 1.0))
    assert said.any()
    assert not said[5].any()
    dot = square(20, 9, 10)
    assert np.array_equal(Style(offset_mm=-50.0).label(dot, (1.0, 1.0)), dot)


def test_a_rater_of_the_main_part_leaves_small_parts_out():
    mask = square()
    mask[0:2, 0:2] = True
    assert np.array_equal(Style(smallest_share=0.1).label(mask, (1.0, 1.0)), square())
    assert np.array_equal(Style(smallest_share=0.04).label(mask, (1.0, 1.0)), mask)


def test_a_high_threshold_leaves_thin_parts_out_and_a_low_one_fills_hollows():
    mask = square(30, 5, 25)
    mask[15, 25:29] = True
    mask[15, 10] = False
    high = Style(smoothing_mm=1.5, threshold=0.7).label(mask, (1.0, 1.0))
    assert not high[15, 26:29].any()
    low = Style(smoothing_mm=1.5, threshold=0.3).label(mask, (1.0, 1.0))
    assert low[15, 10]


def test_a_structure_that_fills_the_image_stays():
    full = np.ones((4, 4), bool)
    for offset_mm in (-2.0, 2.0):
        assert np.array_equal(Style(offset_mm=offset_mm).label(full, (1.0, 1.0)), full)


def test_a_volume_is_labelled_as_one():
    volume = np.zeros((12, 12, 12), bool)
    volume[3:9, 3:9, 3:9] = True
    said = Style(offset_mm=1.0).label(volume, (1.0, 1.0, 1.0))
    assert said[6, 6].tolist() == [2 <= k < 10 for k in range(12)]


@given(arrays.arrays(np.bool_, (6, 5, 4)), st.integers(0, 10_000), st.sampled_from(sorted(STYLES)))
@settings(deadline=None, max_examples=60)
def test_every_style_keeps_a_structure_and_is_the_same_every_time(mask, seed, name):
    style = STYLES[name](np.random.default_rng(seed))
    before = mask.copy()
    said = style.label(mask, (1.0, 0.8, 2.5))
    assert style.name == name
    assert said.dtype == np.bool_
    assert said.any() == mask.any()
    assert np.array_equal(said, style.label(mask, (1.0, 0.8, 2.5)))
    assert np.array_equal(mask, before)


def test_empty_stays_empty():
    empty = np.zeros((5, 5), bool)
    styles = draw_styles(8, np.random.default_rng(0))
    assert not pseudo_masks(empty, (1.0, 1.0), styles).any()


def test_the_same_generator_draws_the_same_raters():
    first, second = (draw_styles(6, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert len(set(first)) == 6
    assert {style.name for style in first} == set(STYLES)


def test_kinds_can_be_chosen():
    styles = draw_styles(3, np.random.default_rng(0), ["offset"])
    assert {style.name for style in styles} == {"offset"}
    assert all(-2 <= style.offset_mm <= 2 for style in styles)
    assert pseudo_masks(square(), (1.0, 1.0), styles).shape == (3, 20, 20)


def test_what_is_no_style_is_refused():
    with pytest.raises(BadInputError, match="smoothing -1"):
        Style(smoothing_mm=-1.0)
    with pytest.raises(BadInputError, match="offset nan mm"):
        Style(offset_mm=float("nan"))
    with pytest.raises(BadInputError, match=r"threshold 1\.0"):
        Style(threshold=1.0)
    with pytest.raises(BadInputError, match="smallest share 2"):
        Style(smallest_share=2.0)
    with pytest.raises(NotFoundError, match="no style is called 'lazy'"):
        draw_styles(1, np.random.default_rng(0), ["lazy"])
    with pytest.raises(BadInputError, match="0 styles of 4 kinds"):
        draw_styles(0, np.random.default_rng(0))


def test_what_cannot_be_labelled_is_refused():
    with pytest.raises(BadInputError, match="a style works on a bool mask, got uint8"):
        Style().label(square().astype(np.uint8), (1.0, 1.0))
    with pytest.raises(BadInputError, match="2 axes need as many spacings above 0"):
        Style().label(square(), (1.0,))
    with pytest.raises(BadInputError, match="no style to label with"):
        pseudo_masks(square(), (1.0, 1.0), [])
