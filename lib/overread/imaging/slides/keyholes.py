"""A polygon with holes as one ring."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient


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
        rings[index] = _with_bridges(rings[index], [(*hook, rings[hole]) for *hook, hole in hung[index]])
    return rings[0]


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
        met = np.flatnonzero((low[: first[hole]] <= y) & (y <= high[: first[hole]]) & (low < high)[: first[hole]])
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
