"""Polygons with holes as one row of points, and such rows as polygons again."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from overread.imaging.slides.outlines import polygons_in


def keyholed(polygon: Polygon) -> np.ndarray:
    """One ring that runs round the polygon and visits each hole over a bridge of no width, there and back.

    It encloses the polygon's area both by the even-odd and by the non-zero rule, as holes are run the other way
    round. Each hole hangs, level with its leftmost corner, on the nearest ring to the left of it: nothing lies
    between, so that no bridge crosses a border or another bridge.

    Returns:
        (point, 2) x and y; the first point is not repeated at the end.
    """
    oriented = orient(polygon)
    shell = shapely.get_coordinates(oriented.exterior)[:-1]
    if not oriented.interiors:
        return shell
    rings = [shell, *sorted(map(_from_leftmost, oriented.interiors), key=lambda ring: tuple(ring[0]))]
    hung = _hooks(rings)
    # A hole hangs on a ring before it, so that from the last to the first each knows what hangs on it.
    for index in range(len(rings) - 1, -1, -1):
        rings[index] = _with_bridges(rings[index], [(edge, x, rings[hole]) for edge, x, hole in hung[index]])
    return rings[0]


def enclosed(points: np.ndarray) -> Polygon | MultiPolygon:
    """What a row of points encloses, holes and parts told apart as far as the row tells them.

    QuPath writes a shape of several rings as the points of all rings, each ring closed by its first point (JTS'
    `getCoordinates`). Where the whole row is made of closed rings, what lies in an even number of them is outside.
    Else it is one ring. Rings that cross themselves are repaired.

    Args:
        points: (point, 2) x and y, 3 points or more.

    Returns:
        Empty where it encloses nothing.
    """
    areas = [_repaired(ring) for ring in _closed_rings(points) or [points]]
    while len(areas) > 1:
        pairs = zip(areas[::2], areas[1::2], strict=False)
        areas = [shapely.symmetric_difference(*pair) for pair in pairs] + areas[len(areas) // 2 * 2 :]
    polygons = polygons_in(areas[0])
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _repaired(ring: np.ndarray) -> shapely.Geometry:
    polygon = Polygon(ring)
    # By structure, as by lines a ring with bridges to its holes is misread now and then.
    return (
        polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    )


def _closed_rings(points: np.ndarray) -> list[np.ndarray] | None:
    """The row cut into rings that each end where they began; None where it cannot be cut so.

    Found from the end on: the points of a ring may meet its first point early, when QuPath dropped their decimals.
    """
    places: dict[tuple[float, float], list[int]] = defaultdict(list)
    end_of: dict[int, int] = {len(points): len(points)}
    for start in range(len(points) - 1, -1, -1):
        same = places[tuple(points[start])]
        # The nearest last point that makes a ring and after which the rest can be cut.
        end = next((last + 1 for last in reversed(same) if last - start >= 3 and last + 1 in end_of), None)
        if end is not None:
            end_of[start] = end
        same.append(start)
    if 0 not in end_of:
        return None
    rings = []
    start = 0
    while start < len(points):
        rings.append(points[start : end_of[start]])
        start = end_of[start]
    return rings


def _from_leftmost(ring: shapely.LinearRing) -> np.ndarray:
    """Its points from the leftmost (of several the uppermost) on."""
    points = shapely.get_coordinates(ring)[:-1]
    return np.roll(points, -int(np.lexsort((points[:, 1], points[:, 0]))[0]), axis=0)


def _hooks(rings: list[np.ndarray]) -> dict[int, list[tuple[int, float, int]]]:
    """For each ring what hangs on it: edge (by its first point), x on the edge, and the hole's number."""
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    first = np.cumsum([0, *(len(ring) for ring in rings)])
    low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    hung: dict[int, list[tuple[int, float, int]]] = defaultdict(list)
    for hole in range(1, len(rings)):
        x, y = rings[hole][0]
        # Level edges need no look: the edges at their ends are met too.
        met = np.flatnonzero(
            (low[: first[hole]] <= y) & (y <= high[: first[hole]]) & (low < high)[: first[hole]]
        )
        share = (y - starts[met, 1]) / (ends[met, 1] - starts[met, 1])
        across = starts[met, 0] + share * (ends[met, 0] - starts[met, 0])
        across[across > x] = -np.inf
        nearest = int(met[across.argmax()])
        ring = int(owner[nearest])
        hung[ring].append((nearest - int(first[ring]), float(across.max()), hole))
    return hung


def _with_bridges(ring: np.ndarray, hooks: list[tuple[int, float, np.ndarray]]) -> np.ndarray:
    """The ring with whole detours to the holes that hang on its edges."""
    pieces = []
    position = 0
    following = np.roll(ring, -1, axis=0)
    for edge, x, hole in sorted(hooks, key=lambda hook: (hook[0], _along(ring, following, hook))):
        hook = np.array([[x, hole[0, 1]]])
        pieces += [ring[position : edge + 1], hook, hole, hole[:1], hook]
        position = edge + 1
    joined = np.concatenate([*pieces, ring[position:]])
    return joined[(joined != np.roll(joined, 1, axis=0)).any(axis=1)]


def _along(ring: np.ndarray, following: np.ndarray, hook: tuple[int, float, np.ndarray]) -> float:
    """How far along its edge a hook lies, as the edge runs."""
    edge, _, hole = hook
    return abs(float(hole[0, 1] - ring[edge, 1])) / max(abs(float(following[edge, 1] - ring[edge, 1])), 1e-12)
