"""Simpler borders for polygons that touch, so that they still touch and do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon


def simplified(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """The polygons with fewer corners, those of shared borders alike; none is lost.

    Visvalingam and Whyatt 1993 (doi:10.1179/000870493786962263), on a coverage: GEOS' CoverageSimplifier.

    Args:
        polygons: of horizontal and vertical edges, corners at whole numbers from 0 on; they do not overlap.
        tolerance: a corner goes where the triangle with its neighbours is smaller than the square of this.
    """
    return list(shapely.coverage_simplify(_with_shared_corners(polygons), tolerance))


def _with_shared_corners(polygons: Sequence[Polygon]) -> list[Polygon]:
    """The same polygons, with a vertex wherever a corner of another one lies on an edge of theirs.

    A coverage's polygons must have the same vertices along a shared border.
    """
    corners = np.unique(shapely.get_coordinates(polygons).astype(np.int64), axis=0)
    lines = (_Corners(corners, along=0), _Corners(corners, along=1))
    return [
        Polygon(_noded(polygon.exterior, lines), [_noded(ring, lines) for ring in polygon.interiors])
        for polygon in polygons
    ]


class _Corners:
    """Corners by the horizontal (along=0) or vertical (along=1) line that they lie on."""

    def __init__(self, corners: np.ndarray, along: int) -> None:
        self.along = along
        self.span = int(corners.max()) + 2
        self.keys = np.sort(self._key(corners))

    def _key(self, points: np.ndarray) -> np.ndarray:
        return points[:, 1 - self.along] * self.span + points[:, self.along]

    def between(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For edges on such lines: first key behind the smaller end, number of corners strictly inside."""
        one, other = self._key(starts), self._key(ends)
        first = np.searchsorted(self.keys, np.minimum(one, other), side="right")
        last = np.searchsorted(self.keys, np.maximum(one, other), side="left")
        return first, np.maximum(last - first, 0)

    def points(self, keys: np.ndarray) -> np.ndarray:
        """The corners that these keys stand for."""
        line, place = np.divmod(keys, self.span)
        return np.stack((place, line) if self.along == 0 else (line, place), axis=1)


def _noded(ring: shapely.LinearRing, lines: tuple[_Corners, _Corners]) -> np.ndarray:
    """The ring's vertices, with the corners that lie on its edges in between."""
    points = shapely.get_coordinates(ring).astype(np.int64)
    starts, ends = points[:-1], points[1:]
    is_horizontal = starts[:, 1] == ends[:, 1]
    first = np.zeros(len(starts), dtype=np.int64)
    count = np.zeros(len(starts), dtype=np.int64)
    for corners, chosen in zip(lines, (is_horizontal, ~is_horizontal), strict=True):
        first[chosen], count[chosen] = corners.between(starts[chosen], ends[chosen])
    if not count.any():
        return points
    noded = []
    position = 0
    for edge in np.flatnonzero(count):
        noded.append(starts[position : edge + 1])
        position = edge + 1
        corners = lines[0] if is_horizontal[edge] else lines[1]
        found = corners.points(corners.keys[first[edge] : first[edge] + count[edge]])
        is_forward = (starts[edge] <= ends[edge]).all()
        noded.append(found if is_forward else found[::-1])
    noded.append(points[position:])
    return np.concatenate(noded)
