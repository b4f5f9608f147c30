"""A polygon with holes goes through one row of points and comes back."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import outlines_of
from overread.imaging.slides.rings import enclosed, keyholed


def outlines_of_noise(seed: int, share: float, scale: float, simplify_px: float) -> list[Polygon]:
    picture = (np.random.default_rng(seed).random((30, 30)) < share).astype(np.uint8)
    mosaic = LabelMosaic((30, 30), block=16)
    mosaic.write(0, 0, picture)
    found = outlines_of(mosaic, {1: "Tumor"}, scale=scale, simplify_px=simplify_px)
    return [outline.polygon for outline in found]


def turns_round(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How often the ring runs round each point: what the non-zero rule of Java's shapes asks."""
    turns = np.zeros(len(points), dtype=int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            is_level = (y0 <= points[:, 1]) != (y1 <= points[:, 1])
            is_right = x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0) > points[:, 0]
            turns += np.where(is_level & is_right, 1 if y1 > y0 else -1, 0)
    return turns


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.6, 0.75, 0.9]),
    scale=st.sampled_from([1.0, 2.013]),
    simplify_px=st.sampled_from([0.0, 1.0]),
)
def test_any_polygon_with_holes_comes_back(seed: int, share: float, scale: float, simplify_px: float) -> None:
    for polygon in outlines_of_noise(seed, share, scale, simplify_px):
        again = enclosed(keyholed(polygon))
        assert again.symmetric_difference(polygon).area == pytest.approx(0, abs=1e-6)


def test_the_ring_runs_once_round_the_area_and_never_round_the_holes() -> None:
    largest = max(outlines_of_noise(3, 0.8, 1, 0), key=lambda polygon: len(polygon.interiors))
    assert len(largest.interiors) > 20
    centres = np.argwhere(np.ones((30, 30))) + 0.5
    inside = shapely.contains_xy(largest, centres[:, 0], centres[:, 1])
    assert (turns_round(keyholed(largest), centres) == inside).all()


def test_a_polygon_without_holes_is_its_own_ring() -> None:
    assert len(keyholed(box(0, 0, 4, 3))) == 4


def test_a_hole_hangs_on_the_nearest_border_to_the_left_of_it() -> None:
    square = Polygon(box(0, 0, 10, 10).exterior, [box(6, 4, 8, 6).exterior, box(2, 3, 4, 8).exterior])
    ring = keyholed(square).tolist()
    assert len(ring) == 4 + 2 * (4 + 1) + 2 * 2
    assert [0, 3] in ring
    assert [4, 4] in ring
    assert enclosed(np.array(ring)).equals(square)


def test_parts_and_holes_in_one_row_of_closed_rings_are_told_apart() -> None:
    shape = MultiPolygon([Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 8, 8).exterior]), box(4, 4, 6, 6)])
    row = shapely.get_coordinates(shape)
    assert enclosed(row).equals(shape)
    assert enclosed(row).area == 100 - 36 + 4


def test_a_ring_that_meets_its_first_point_early_does_not_lead_astray() -> None:
    early = [(0, 0), (4, 0), (4, 4), (0, 0), (0, 9), (-3, 9), (-3, 0), (0, 0)]
    hole = [(-2, 4), (-1, 4), (-1, 5), (-2, 5), (-2, 4)]
    assert enclosed(np.array(early + hole, dtype=float)).area == 8 + 27 - 1


def test_a_ring_that_crosses_itself_keeps_both_lobes() -> None:
    assert enclosed(np.array([(0, 0), (2, 2), (2, 0), (0, 2)], dtype=float)).area == 2


def test_points_on_a_line_enclose_nothing() -> None:
    assert enclosed(np.array([(0, 0), (1, 1), (2, 2)], dtype=float)).is_empty
