"""Maps of a slide at low power, and how they are looked at from high power."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

# Edge of a cell of the maps.
CELL_UM = 4.0
# Cells around the slide, so that tiles at its rim can look over it.
PAD = 12
# Distances to a border are kept up to here; nothing looks farther.
FAR_UM = 90.0


def grid_shape(size_um: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of the maps of a slide of that width and height."""
    width, height = size_um
    return int(np.ceil(height / CELL_UM)) + 2 * PAD, int(np.ceil(width / CELL_UM)) + 2 * PAD


def places(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """µm from the slide's left and top edge of the middle of each column and row: (1, columns) and (rows, 1)."""
    rows, columns = (((np.arange(n) - PAD + 0.5) * CELL_UM).astype(np.float32) for n in shape)
    return columns[None], rows[:, None]


def distance_to_border(level: np.ndarray) -> np.ndarray:
    """About how many µm a place lies inside (positive) or outside of where `level` is above zero.

    The level over its own slope: right near the border, which is where it is used; at most `FAR_UM`.
    """
    down, right = np.gradient(level, CELL_UM)
    slope = np.hypot(down, right)
    distance = level / np.maximum(slope, 0.2 * float(slope.mean()) + 1e-9)
    return np.clip(distance, -FAR_UM, FAR_UM)


def magnified(
    field: np.ndarray, left_um: float, top_um: float, size_px: tuple[int, int], um_per_px: float
) -> np.ndarray:
    """A part of a map at a slide's pixels, bicubic: (rows, columns) float32."""
    width, height = size_px
    left, top = left_um / CELL_UM + PAD, top_um / CELL_UM + PAD
    right, bottom = left + width * um_per_px / CELL_UM, top + height * um_per_px / CELL_UM
    rows, columns = cells_around(field.shape, left, top, right, bottom)
    part = np.ascontiguousarray(field[rows, columns], dtype=np.float32)
    box = (left - columns.start, top - rows.start, right - columns.start, bottom - rows.start)
    # The last tiles hang over the slide's edge.
    missing = [
        (0, max(0, int(np.ceil(end)) - have)) for end, have in zip(box[:1:-1], part.shape, strict=True)
    ]
    if any(after for _, after in missing):
        part = np.pad(part, missing, mode="edge")
    return np.array(Image.fromarray(part).resize((width, height), Image.Resampling.BICUBIC, box=box))


def cells_around(
    shape: tuple[int, ...], left: float, top: float, right: float, bottom: float
) -> tuple[slice, slice]:
    """Rows and columns of the cells that a rectangle (in cells) and bicubic interpolation in it need."""
    return (
        slice(max(0, int(top) - 3), min(shape[0], int(np.ceil(bottom)) + 3)),
        slice(max(0, int(left) - 3), min(shape[1], int(np.ceil(right)) + 3)),
    )


def at_points(field: np.ndarray, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """The map's value at places given in µm."""
    where = np.stack([y_um, x_um]) / CELL_UM + (PAD - 0.5)
    # The map may hold half precision, which interpolation does not take; only the cells near the points are copied.
    first = np.floor(where.min(axis=1)).astype(int).clip(0) if where.size else np.zeros(2, int)
    last = np.ceil(where.max(axis=1)).astype(int) + 2 if where.size else np.ones(2, int)
    part = field[first[0] : last[0], first[1] : last[1]].astype(np.float32)
    return map_coordinates(part, where - first[:, None], order=1, mode="nearest")
