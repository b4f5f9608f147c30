"""Outlines are the label picture: one polygon an object, with its holes, wherever blocks begin."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from overread.domain.errors import BadInputError
from overread.domain.slides import Region
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import Outline, outlines_of, rasterise

NAMES = {1: "Tumor", 2: "doubt: high"}
LABELS = {name: label for label, name in NAMES.items()}


def mosaic_of(picture: np.ndarray, block: int = 8) -> LabelMosaic:
    mosaic = LabelMosaic((picture.shape[1], picture.shape[0]), block=block)
    mosaic.write(0, 0, picture)
    return mosaic


def labelled(outlines: list[Outline]) -> list[tuple[Polygon, int]]:
    return [(outline.polygon, LABELS[outline.name]) for outline in outlines]


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Random label pictures, from specks to large connected regions."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grain = draw(st.integers(1, 5))
    shares = draw(st.sampled_from([(0.3, 0.5, 0.2), (0.1, 0.8, 0.1), (0.6, 0.3, 0.1)]))
    coarse = rng.choice(3, (height // grain + 1, width // grain + 1), p=shares).astype(np.uint8)
    return np.kron(coarse, np.ones((grain, grain), dtype=np.uint8))[:height, :width]


@settings(deadline=None, max_examples=40)
@given(picture=pictures(), scale=st.sampled_from([1.0, 2.0, 2.0037, 4.5]), x=st.integers(-90, 70_000))
def test_rasterised_outlines_are_the_picture_again(picture: np.ndarray, scale: float, x: int) -> None:
    outlines = outlines_of(mosaic_of(picture), NAMES, scale=scale, shift=(x, 3 * x))
    height, width = picture.shape
    # A region counts whole pixels; what it lacks is less than half a pixel of the picture.
    region = Region(x, 3 * x, round(scale * width), round(scale * height))
    assert (rasterise(labelled(outlines), region, (width, height)) == picture).all()
    for label in NAMES:
        area = sum(polygon.area for polygon, kind in labelled(outlines) if kind == label)
        assert area == pytest.approx(scale**2 * (picture == label).sum())


@settings(deadline=None, max_examples=40)
@given(picture=pictures())
def test_blocks_change_nothing(picture: np.ndarray) -> None:
    in_blocks, at_once = (outlines_of(mosaic_of(picture, block), NAMES) for block in (8, 64))
    assert len(in_blocks) == len(at_once)
    for one, other in zip(in_blocks, at_once, strict=True):
        assert one.name == other.name
    assert {one.polygon.normalize().wkt for one in in_blocks} == {
        one.polygon.normalize().wkt for one in at_once
    }


@settings(deadline=None, max_examples=40)
@given(picture=pictures(), tolerance=st.sampled_from([0.5, 1.0, 2.0, 5.0]), least=st.sampled_from([0, 3, 20]))
def test_simplified_outlines_are_as_many_valid_and_do_not_overlap(
    picture: np.ndarray, tolerance: float, least: int
) -> None:
    mosaic = mosaic_of(picture)
    exact = outlines_of(mosaic, NAMES, min_area_px=least)
    simple = outlines_of(mosaic, NAMES, simplify_px=tolerance, min_area_px=least)
    assert sorted(each.name for each in simple) == sorted(each.name for each in exact)
    assert all(each.polygon.is_valid and each.polygon.area > 0 for each in simple)
    together = shapely.union_all([each.polygon for each in simple]).area
    assert together == pytest.approx(sum(each.polygon.area for each in simple))


def test_an_object_over_many_blocks_is_one_polygon_without_corners_at_the_seams() -> None:
    picture = np.zeros((40, 50), dtype=np.uint8)
    picture[3:37, 2:47] = 1
    (outline,) = outlines_of(mosaic_of(picture), NAMES, shift=(100, 200), scale=2)
    assert outline.polygon.equals(box(104, 206, 194, 274))
    assert len(outline.polygon.exterior.coords) == 5


def test_a_hole_over_several_blocks_survives_and_the_object_in_it_too() -> None:
    picture = np.ones((30, 30), dtype=np.uint8)
    picture[4:26, 5:25] = 0
    picture[10:20, 10:20] = 1
    ring, island = outlines_of(mosaic_of(picture), NAMES, simplify_px=1)
    assert ring.polygon.area == 900 - 22 * 20
    assert len(ring.polygon.interiors) == 1
    assert island.polygon.equals(box(10, 10, 20, 20))


def test_pixels_that_touch_at_a_corner_are_two_objects() -> None:
    assert len(outlines_of(mosaic_of(np.eye(20, dtype=np.uint8)), NAMES)) == 20


def test_small_objects_are_left_out_and_small_holes_filled_in_level_0_pixels() -> None:
    picture = np.zeros((20, 20), dtype=np.uint8)
    picture[0:10, 0:10] = 1
    picture[3, 3] = 0
    picture[7:9, 7:9] = 0
    picture[15, 15] = 1
    found = outlines_of(mosaic_of(picture), NAMES, scale=2, min_area_px=5)
    assert [each.polygon.area for each in found] == [4 * (100 - 4)]
    everything = outlines_of(mosaic_of(picture), NAMES, scale=2, min_area_px=4)
    assert [each.polygon.area for each in everything] == [4 * (100 - 1 - 4), 4]


@pytest.mark.parametrize("block", [8, 64])
def test_small_objects_and_holes_stay_where_somebody_spoke_of_them(block: int) -> None:
    picture = np.zeros((20, 20), dtype=np.uint8)
    picture[0:10, 0:10] = 1
    picture[3, 3] = picture[5, 5] = 0
    picture[15, 15:17] = 1
    picture[12, 12] = 1
    mosaic = mosaic_of(picture, block)
    found = outlines_of(mosaic, NAMES, scale=2, min_area_px=30, kept=[(3, 3), (15, 16)])
    assert [each.polygon.area for each in found] == [4 * (100 - 1), 4 * 2]
    assert not shapely.contains_xy(found[0].polygon, 7, 7)
    assert shapely.contains_xy(found[1].polygon, 33, 31)


def test_labels_without_a_name_are_left_out() -> None:
    picture = np.array([[1, 5], [2, 2]], dtype=np.uint8)
    assert [each.name for each in outlines_of(mosaic_of(picture), {1: "Tumor"})] == ["Tumor"]
    assert outlines_of(mosaic_of(np.zeros((3, 3), dtype=np.uint8)), NAMES, simplify_px=1) == []


def test_a_slanted_border_between_two_classes_stays_shared() -> None:
    rows, columns = np.mgrid[:60, :60]
    picture = np.where(rows > columns, 1, 2).astype(np.uint8)
    one, other = outlines_of(mosaic_of(picture), NAMES, simplify_px=2)
    assert one.polygon.area + other.polygon.area == pytest.approx(3600)
    assert one.polygon.intersection(other.polygon).area == pytest.approx(0)
    assert len(one.polygon.exterior.coords) < 20


def test_rasterises_in_the_regions_pixels_later_ones_on_top_and_what_overhangs_is_cut() -> None:
    outlines = [(box(90, 190, 110, 210), 1), (box(104, 200, 900, 202), 2), (Polygon(), 1)]
    picture = rasterise(outlines, Region(100, 200, 20, 8), (10, 4), background=9)
    expected = np.full((4, 10), 9)
    expected[:, :5] = 1
    expected[0, 2:] = 2
    assert (picture == expected).all()
    assert picture.dtype == np.uint8


def test_nothing_to_rasterise_is_background() -> None:
    assert (rasterise([], Region(0, 0, 4, 6), (2, 3), background=4) == np.full((3, 2), 4)).all()


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"simplify_px": -1.0}, {"min_area_px": -1.0}])
def test_refuses_numbers_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match="expected a scale above 0, the others 0 or more"):
        outlines_of(mosaic_of(np.ones((2, 2), dtype=np.uint8)), NAMES, **wrong)
