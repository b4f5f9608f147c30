"""What a champion had said about a patch before it was labelled, from the maps that are kept of the slide."""

from __future__ import annotations

import numpy as np

from overread.domain import Region
from overread.ensemble.slides.maps import SlideMaps

# Larger rectangles are not compared: their probabilities would not fit beside the label.
MOST_PX = 64 << 20


def proposed_in(maps: SlideMaps, region: Region, size: tuple[int, int]) -> np.ndarray | None:
    """The likeliest class at each pixel of a region, `(x, y)` of `size`.

    The probabilities of the cells are joined by straight lines, so that a border lies within a cell where the members
    put it, to about a pixel.

    Returns:
        None where the champion took no more than a first look, or did not look at some of the region's tissue.
    """
    cells = maps.cells(region)
    if maps.is_coarse or (maps.tissue & ~maps.known)[cells].any() or size[0] * size[1] > MOST_PX:
        return None
    rows, columns = cells
    # One cell more on each side, where there is one: a border pixel lies between two cells.
    top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)
    around = maps.probability[:, top : rows.stop + 1, left : columns.stop + 1].astype(np.float32)
    edge = maps.cell / maps.slide_pixel_size
    by_row = _between(around, 1, _places(region.y, region.height, size[1], edge) - top)
    return _between(by_row, 2, _places(region.x, region.width, size[0], edge) - left).argmax(axis=0).T


def _places(first: int, length: int, count: int, edge: float) -> np.ndarray:
    """Middles of pixels in cells, counted from the middle of cell 0."""
    return (first + (np.arange(count) + 0.5) * length / count) / edge - 0.5


def _between(field: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    places = np.clip(places, 0, field.shape[axis] - 1)
    lower = np.minimum(places.astype(int), max(field.shape[axis] - 2, 0))
    upper = np.minimum(lower + 1, field.shape[axis] - 1)
    weight = (places - lower).astype(np.float32)
    weight = weight[:, None] if axis == 1 else weight
    return field.take(lower, axis) * (1 - weight) + field.take(upper, axis) * weight
