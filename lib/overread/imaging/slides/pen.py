"""Marks of felt pens on the cover glass."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from overread.domain.slides import PixelSize

# Hues are in degrees: red 0, green 120, blue 240. Haematoxylin is 243 to 290, eosin 300 to 350.
GREEN, BLUE = (70.0, 170.0), (170.0, 240.0)
# Haematoxylin alone reaches 0.72 here; ink is purer.
DEEP_BLUE, DEEP_BLUE_SATURATION = (240.0, 250.0), 0.78
RED = (345.0, 385.0)
GREEN_SATURATION, BLUE_SATURATION, RED_SATURATION = 0.25, 0.4, 0.72
# Of 255. Folded tissue is as dark as black ink, but purple.
BLACK, BLACK_CHROMA = 100, 30
# A stroke's edge is pale, as tissue may be; so far from its core, and in its hue, it is the stroke's.
MARGIN_UM = 48.0
# Vessels full of blood are as red as ink, pigment as dark, but smaller than a stroke.
LEAST_STROKE_MM2 = 0.05


def find_pen(picture: np.ndarray, cell: PixelSize) -> np.ndarray:
    """Where a low-power picture `(rows, cols, 3)` uint8 shows blue, green, red or black ink, bool."""
    highest, lowest = picture.max(axis=-1), picture.min(axis=-1)
    chroma = highest - lowest
    saturation = chroma / np.maximum(highest, 1).astype(np.float32)
    hue = _hue(picture, highest, chroma)
    cold, red, grey = _within(hue, (GREEN[0], BLUE[1])), _within(hue, RED), chroma < BLACK_CHROMA
    ink = _within(hue, GREEN) & (saturation > GREEN_SATURATION)
    ink |= _within(hue, BLUE) & (saturation > BLUE_SATURATION)
    deep_blue = _within(hue, DEEP_BLUE)
    ink |= deep_blue & (saturation > DEEP_BLUE_SATURATION)
    # In all but black shadows the hue of so little colour is noise.
    ink &= chroma >= BLACK_CHROMA
    least = LEAST_STROKE_MM2 * 1e6 / cell.um**2
    strokes = _with_edge(ink, cold | deep_blue, cell)
    strokes |= _with_edge(without_small(red & (saturation > RED_SATURATION), least), red, cell)
    return strokes | _with_edge(without_small(grey & (highest < BLACK), least), grey, cell)


def _hue(picture: np.ndarray, highest: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Degrees in [0, 360); grey has 0."""
    red, green, blue = (picture[..., channel].astype(np.float32) for channel in range(3))
    width = np.maximum(chroma, 1).astype(np.float32)
    sixth = np.where(
        highest == picture[..., 0],
        (green - blue) / width % 6,
        np.where(highest == picture[..., 1], (blue - red) / width + 2, (red - green) / width + 4),
    )
    return sixth * 60


def _within(hue: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """From the first to the second, across 360 where the second is beyond."""
    first, end = bounds
    return (hue - first) % 360 < end - first


def without_small(mask: np.ndarray, least_cells: float) -> np.ndarray:
    """Drop the connected pieces that have fewer cells."""
    pieces = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=pieces)
    keep = np.bincount(pieces.ravel()) >= least_cells
    keep[0] = False
    return keep[pieces]


def _with_edge(core: np.ndarray, alike: np.ndarray, cell: PixelSize) -> np.ndarray:
    """The core and what is alike close to it."""
    reach = round(MARGIN_UM / cell.um)
    if not reach or not core.any():
        return core
    return core | (ndimage.binary_dilation(core, iterations=reach) & alike)
