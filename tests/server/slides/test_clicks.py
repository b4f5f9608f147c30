"""A click moves the outline by as much as the members disagree, and every clicked pixel gets the side it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from overread.domain import BadInputError, PixelSize, Region
from overread.ensemble.slides.prediction import SlidePrediction
from overread.imaging.slides.mosaic import LabelMosaic
from overread.server.slides.answers import outlines_in
from overread.server.slides.clicks import apply_clicks, drawn_large_enough, in_order, pixel_of
from overread.server.slides.request import Click, Place

RADIUS = 2.0


def picture(text: str) -> np.ndarray:
    """Rows of digits."""
    return np.array([[int(digit) for digit in row] for row in text.split()], dtype=np.uint8)


# On the left a structure of which all see the upper row; on the right one that the mean does not show.
LABELS = picture("0110000000 0110000000 0110000000 0000000000 0000000000")
SOME = picture("0110002220 0110002020 0110000000 0110000000 0000000000")
EVERY = picture("0110000000 0000000000 0000000000 0000000000 0000000000")


def drawn(*clicks: tuple[int, int, bool], most_likely: int = 3) -> np.ndarray:
    kept = LABELS.copy(), SOME.copy(), EVERY.copy()
    found = apply_clicks(LABELS, SOME, EVERY, clicks, RADIUS, lambda row, column: most_likely)
    for before, after in zip(kept, (LABELS, SOME, EVERY), strict=True):
        np.testing.assert_array_equal(before, after)
    return found


def test_a_positive_click_adds_the_structure_that_some_member_sees():
    expected = picture("0110002220 0110002020 0110000000 0000000000 0000000000")
    np.testing.assert_array_equal(drawn((0, 7, True)), expected)


def test_a_positive_click_inside_what_is_drawn_extends_it_to_what_some_member_sees():
    expected = picture("0110000000 0110000000 0110000000 0110000000 0000000000")
    np.testing.assert_array_equal(drawn((1, 1, True)), expected)


def test_a_negative_click_leaves_what_all_members_see():
    np.testing.assert_array_equal(drawn((2, 1, False)), EVERY)


def test_a_negative_click_inside_what_all_members_see_removes_the_structure():
    np.testing.assert_array_equal(drawn((0, 1, False)), np.zeros_like(LABELS))


def test_where_no_member_sees_anything_a_click_draws_a_disc_of_the_likeliest_class():
    found = drawn((3, 8, True))
    disc = picture("0000000000 0000000010 0000000111 0000001111 0000000111")
    np.testing.assert_array_equal(found, np.where(disc > 0, 3, LABELS))


def test_what_is_too_small_to_be_shown_is_drawn_as_a_disc_that_leaves_other_structures_alone():
    said = picture("0000010 0300010 0000010 0000010 1111111 1111011 1111111")
    clicks = [(1, 1, True), (5, 4, False), (0, 5, True)]
    expected = picture("3330010 3333010 3330010 0300010 1110001 1100000 1110001")
    before = said.copy()
    np.testing.assert_array_equal(drawn_large_enough(said, clicks, 3, RADIUS), expected)
    np.testing.assert_array_equal(drawn_large_enough(said, clicks, 1, RADIUS), said)
    np.testing.assert_array_equal(said, before)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4), scale=st.sampled_from([1.0, 1.6, 2.0]))
def test_outlines_hold_every_clicked_point_and_no_point_that_was_clicked_away(seed, count, scale):
    rng = np.random.default_rng(seed)
    labels = LabelMosaic((24, 18), block=16)
    labels.write(0, 0, rng.choice(3, (18, 24), p=(0.5, 0.4, 0.1)).astype(np.uint8))
    region = Region(100, 200, int(24 * scale), int(18 * scale))
    clicks = [
        Click(int(rng.integers(region.x, region.right)), int(rng.integers(region.y, region.bottom)), True)
        for _ in range(count)
    ]
    # Neither maps nor a report are looked at.
    nothing: Any = None
    none = LabelMosaic(labels.size)
    prediction = SlidePrediction(labels, none, none, none, nothing, region, PixelSize(scale), nothing)
    classes = ("background", "tumour", "stroma")
    found = outlines_in(prediction, labels, classes, PixelSize(1.0), "off", 30.0, clicks)
    for click in clicks:
        row, column = pixel_of(click, region, scale, labels.size)
        name = classes[int(labels.read(column, row, 1, 1)[0, 0])]
        around = {
            each.name for each in found if shapely.contains_xy(each.polygon, click.x + 0.5, click.y + 0.5)
        }
        assert around == {name} - {"background"}


def test_a_later_click_wins_on_the_same_pixel():
    assert drawn((1, 1, True), (1, 1, False))[1, 1] == 0
    assert drawn((1, 1, False), (1, 1, True))[1, 1] == 1


def test_an_earlier_click_keeps_its_pixel_when_a_later_one_removes_the_structure_around_it():
    found = drawn((2, 2, True), (0, 1, False))
    assert found[2, 2] > 0
    assert found[0, 1] == 0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_every_click_is_honoured_and_of_two_on_one_pixel_the_later(clicks, seed):
    rng = np.random.default_rng(seed)
    votes = rng.integers(0, 2, (3, 5, 10)).astype(np.uint8)
    some, every = votes.max(axis=0), votes.min(axis=0)
    labels = (votes.sum(axis=0) >= 2).astype(np.uint8)
    found = apply_clicks(labels, some, every, clicks, RADIUS, lambda row, column: 1)
    for (row, column), is_positive in {(row, column): side for row, column, side in clicks}.items():
        assert bool(found[row, column]) == is_positive


def place(foreground: list[list[int]], background: list[list[int]], **others: object) -> dict[str, object]:
    return {"foreground": foreground, "background": background, **others}


def test_the_order_of_clicks_is_taken_from_earlier_requests():
    earlier = [place([], [[5, 5]]), place([[1, 1]], [[5, 5]])]
    now = Place.read(place([[1, 1], [2, 2]], [[5, 5], [6, 6]]))
    assert in_order(earlier, now) == (
        Click(5, 5, False),
        Click(1, 1, True),
        Click(2, 2, True),
        Click(6, 6, False),
    )


def test_a_click_that_was_taken_back_and_made_again_is_a_new_one():
    earlier = [place([[1, 1]], []), place([], [[5, 5]]), {"location": "broken"}]
    assert in_order(earlier, Place.read(place([[1, 1]], [[5, 5]]))) == (
        Click(5, 5, False),
        Click(1, 1, True),
    )


def test_a_request_about_another_rectangle_takes_no_click_back():
    elsewhere = place([], [], location=[100, 100], size=[50, 50])
    earlier = [place([], [[5, 5]]), elsewhere]
    now = Place.read(place([[1, 1]], [[5, 5]]))
    assert in_order(earlier, now) == (Click(5, 5, False), Click(1, 1, True))


def test_qupaths_body_is_read():
    body = {
        "level": 0,
        "location": [10, 20],
        "size": [30, 40],
        "tile_size": [1024, 1024],
        "min_poly_area": 30,
    }
    found = Place.read(body | {"foreground": [[11, 21]], "background": [[12, 22.4]], "max_workers": 1})
    assert found == Place(Region(10, 20, 30, 40), (Click(11, 21, True), Click(12, 22, False)), 30.0)


def test_zeros_mean_the_whole_slide():
    found = Place.read({"location": [0, 0], "size": [0, 0]})
    assert found.region is None
    assert found.within(Region(0, 0, 7, 5)) == Region(0, 0, 7, 5)


def test_what_lies_beyond_the_slide_is_cut_off():
    assert Place.read({"location": [5, 3], "size": [9, 9]}).within(Region(0, 0, 7, 5)) == Region(5, 3, 2, 2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"location": [5, 5]}, r"location is \[5, 5\] but there is no size"),
        ({"size": [5, 0]}, r"size is \[5, 0\]: the rectangle is empty"),
        ({"size": 5}, "size is 5, expected 2 numbers from 0"),
        ({"location": ["a", 0], "size": [5, 5]}, "location is .* expected 2 numbers"),
        ({"location": [-1, 0], "size": [5, 5]}, "location is .* expected 2 numbers from 0"),
        ({"min_poly_area": "much"}, "min_poly_area is 'much', expected a number of pixels from 0"),
        ({"foreground": "here"}, "foreground is 'here', expected a list of points"),
        ({"background": [[1, 2, 3]]}, r"a point of background is \[1, 2, 3\], expected 2 numbers"),
        ({"location": [9, 9], "size": [2, 2]}, r"the rectangle \[9, 9, 2, 2\] lies outside the slide"),
        ({"size": [3, 3], "foreground": [[6, 1]]}, r"the click at \[6, 1\] lies outside the rectangle"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, words):
    with pytest.raises(BadInputError, match=words):
        Place.read(asked).within(Region(0, 0, 7, 5))
