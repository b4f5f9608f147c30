"""Where a slide has tissue, and not glass, pen or dirt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.pen import find_pen, without_small
from overread.imaging.slides.slide import Slide

# Saturation by which Otsu may part tissue from glass: below is tinted glass, above is stain, however little there is.
OTSU_BOUNDS = (0.05, 0.15)
# Brightest and least of 255 that tissue has in the middle of its channels and between them.
WHITE = 240
LEAST_CHROMA = 10
# Channels of a grey scan differ no more than that, of 255; its tissue and glass at least that.
GREY_CHROMA = 6
LEAST_CONTRAST = 25
LEAST_DIFFERENCE = 0.05
CLOSING_UM = 24.0
OPENING_UM = 8.0
SMALLEST_PIECE_MM2 = 0.005
LARGEST_HOLE_MM2 = 0.02


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Which cells of a slide hold tissue. Cells begin at the slide's upper left corner.

    Attributes:
        mask: `(rows, cols)` bool, over the whole slide; the last cells may reach beyond it.
        cell: edge of a cell.
        slide_pixel_size: of level 0.
    """

    mask: np.ndarray
    cell: PixelSize
    slide_pixel_size: PixelSize

    @property
    def area_mm2(self) -> float:
        """Area of the tissue, mm²."""
        return float(self.mask.sum()) * self.cell.um**2 / 1e6

    def share(self, region: Region) -> float:
        """How much of a region is tissue, in [0, 1]; cells count by the area of theirs that lies in it."""
        zoom = self.slide_pixel_size / self.cell
        rows = np.array([region.y, region.bottom]) * zoom
        columns = np.array([region.x, region.right]) * zoom
        return float(self._areas(rows, columns)[0, 0]) / (region.area_px * zoom**2)

    def resized(self, cell: PixelSize) -> TissueMask:
        """The same with other cells, which hold tissue where at least half of them does."""
        factor = cell / self.cell
        rows, columns = (np.arange(_cells(length, factor) + 1) * factor for length in self.mask.shape)
        halves = self._areas(rows, columns) >= factor**2 / 2 - 1e-9
        return TissueMask(halves, cell, self.slide_pixel_size)

    def _areas(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Tissue between neighbouring borders, which are given in cells and may cut them; in cells."""
        over_rows = _between(self._sums, rows)
        corners = _between(over_rows.T, columns).T
        return np.diff(np.diff(corners, axis=0), axis=1)

    @cached_property
    def _sums(self) -> np.ndarray:
        """How many cells above and left of each corner are tissue."""
        return np.pad(self.mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _between(sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of running sums at places between them."""
    places = np.clip(places, 0, len(sums) - 1)
    lower = np.minimum(np.floor(places).astype(int), max(len(sums) - 2, 0))
    part = (places - lower)[:, None]
    return sums[lower] * (1 - part) + sums[lower + 1] * part


def _cells(length: float, cell: float) -> int:
    # 1000 pixels of 0.499 µm are not one cell more for a rounding error.
    return max(1, math.ceil(length / cell - 1e-6))


def find_tissue(slide: Slide, cell: PixelSize = PixelSize(8.0)) -> TissueMask:
    """Tell tissue from glass by its saturation at low power, without marks of a pen.

    Otsu's threshold (1979) is taken over what is neither white nor pen, within bounds, so that neither an empty slide
    nor one full of tissue is split by its noise. Small gaps are closed, small holes filled, small pieces dropped.
    In slides without colour, tissue is what is darker than the glass.
    """
    edge = cell / slide.pixel_size
    columns, rows = (_cells(length, edge) for length in slide.size_px)
    picture = slide.read_box((0.0, 0.0, columns * edge, rows * edge), (columns, rows))
    highest, lowest = picture.max(axis=-1), picture.min(axis=-1)
    chroma = highest - lowest
    is_grey = np.percentile(chroma, 99.9) <= GREY_CHROMA
    found = _dark(picture[..., 1]) if is_grey else _stained(picture, highest, chroma, cell)
    return TissueMask(_tidied(found, cell), cell, slide.pixel_size)


def _dark(brightness: np.ndarray) -> np.ndarray:
    """What is darker than the glass of a grey scan; padding is black."""
    scanned = brightness[brightness > 0]
    if scanned.size == 0 or np.ptp(np.percentile(scanned, (0.5, 99.5))) < LEAST_CONTRAST:
        return np.zeros(brightness.shape, bool)
    return (brightness <= threshold_otsu(scanned)) & (brightness > 0)


def _stained(picture: np.ndarray, highest: np.ndarray, chroma: np.ndarray, cell: PixelSize) -> np.ndarray:
    saturation = chroma / np.maximum(highest, 1).astype(np.float32)
    pen = find_pen(picture, cell)
    lowest, largest = OTSU_BOUNDS
    values = saturation[~pen]
    # Without a difference there is nothing to part: all of it is glass, or all is stained.
    otsu = threshold_otsu(values) if np.ptp(values) > LEAST_DIFFERENCE else largest
    stained = saturation > np.clip(otsu, lowest, largest)
    return stained & ~pen & (chroma >= LEAST_CHROMA) & (np.median(picture, axis=-1) < WHITE)


def _tidied(found: np.ndarray, cell: PixelSize) -> np.ndarray:
    cell_mm2 = cell.um**2 / 1e6
    found = _bordered(ndimage.binary_closing, found, round(CLOSING_UM / cell.um))
    found = ~without_small(~found, LARGEST_HOLE_MM2 / cell_mm2)
    found = _bordered(ndimage.binary_opening, found, round(OPENING_UM / cell.um))
    return without_small(found, SMALLEST_PIECE_MM2 / cell_mm2)


def _bordered(change: Callable[..., np.ndarray], mask: np.ndarray, reach: int) -> np.ndarray:
    """Open or close as if the picture went on beyond its border as it is there."""
    if reach == 0:
        return mask
    return change(np.pad(mask, 2 * reach, mode="edge"), iterations=reach)[
        2 * reach : -2 * reach, 2 * reach : -2 * reach
    ]
