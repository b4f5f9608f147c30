"""Boxes that fit what the members doubt, instead of squares of one size.

Adaptive region selection (Qiu et al. 2023, arXiv:2307.07168): from the most uncertain place, the connected region above
a threshold grows; the threshold is found by bisection such that the region's bounding box has sides between 0.5 and 1.5
of the patch. The paper's uncertainty is 1 - |2p - 1|; what is used of it is its order, and for two classes that of
predictive entropy is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import find_objects, label, median_filter

from overread.domain import Region
from overread.ensemble.slides.maps import SlideMaps
from overread.queue.patches.candidates import LEAST_TISSUE, PatchTable

# Sides of a box as a share of the patch's.
SMALLEST, LARGEST = 0.5, 1.5
# The threshold lies between these percentiles of the slide's tissue, found in so many steps.
LOWEST_PERCENTILE, HIGHEST_PERCENTILE, STEPS = 98.0, 100.0, 10
MEDIAN_CELLS = 3
# Peaks are kept one for each square of this share of a patch.
PEAK_SHARE = 0.25
OUTSIDE = -1.0


@dataclass(frozen=True, eq=False)
class DoubtField:
    """One slide's doubt, smoothed, and where it peaks.

    Attributes:
        values: `(row, column)` of cells; `OUTSIDE` beyond tissue that was looked at.
        thresholds: the values at the percentiles from 98 to 100, evenly spaced.
        peaks: `(peak, 2)` row and column of the highest cell of each square, most doubtful first.
        cell_px: edge of a cell in level-0 pixels.
        slide_px: width and height of the slide.
        parts: `(row, column)` by kind of doubt, where the maps tell kinds apart.
    """

    values: np.ndarray
    thresholds: np.ndarray
    peaks: np.ndarray
    cell_px: float
    slide_px: tuple[int, int]
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def heights(self) -> np.ndarray:
        """Doubt at each peak, in nat."""
        return self.values[self.peaks[:, 0], self.peaks[:, 1]]

    def parts_in(self, box: Region) -> dict[str, float]:
        """Mean of each kind of doubt over a box's tissue that was looked at; NaN where there is none."""
        cells = _cells(self, box)
        looked = self.values[cells] > OUTSIDE
        return {
            name: float(values[cells][looked].mean(dtype=np.float64)) if looked.any() else math.nan
            for name, values in self.parts.items()
        }


def doubt_field(table: PatchTable, maps: SlideMaps) -> DoubtField:
    """What `adaptive_box` needs of a slide."""
    looked = maps.known & maps.tissue
    smooth = median_filter(np.where(looked, maps.maps[maps.asked_by], 0).astype(np.float32), MEDIAN_CELLS)
    values = np.where(looked, smooth, OUTSIDE).astype(np.float16)
    cell_px = maps.cell / maps.slide_pixel_size
    edge = max(1, round(PEAK_SHARE * min(table.size_px) / cell_px))
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % edge), (0, -columns % edge)), constant_values=OUTSIDE)
    down, across = padded.shape[0] // edge, padded.shape[1] // edge
    squares = padded.reshape(down, edge, across, edge).swapaxes(1, 2).reshape(down * across, edge * edge)
    within = squares.argmax(axis=1)
    heights = squares[np.arange(len(squares)), within]
    order = np.argsort(-heights, kind="stable")[: int((heights > 0).sum())]
    square_row, square_column = np.divmod(order, across)
    row, column = np.divmod(within[order], edge)
    peaks = np.stack([square_row * edge + row, square_column * edge + column], axis=1)
    tissue = smooth[looked]
    percentiles = np.linspace(LOWEST_PERCENTILE, HIGHEST_PERCENTILE, 2**STEPS + 1)
    thresholds = np.percentile(tissue, percentiles) if len(tissue) else np.zeros(len(percentiles))
    parts = {name: maps.maps[name] for name in table.parts}
    return DoubtField(values, thresholds.astype(np.float32), peaks, cell_px, maps.slide_size_px, parts)


def boxes_by_doubt(
    field: DoubtField, patch_px: tuple[int, int], occupied: Sequence[Region]
) -> Iterator[tuple[Region, float]]:
    """Boxes round the slide's peaks with the doubt there, most doubtful first; none touches what is occupied."""
    for row, column in field.peaks:
        box = box_about(field, int(row), int(column), patch_px, occupied)
        if box is not None:
            yield box, float(field.values[row, column])


def box_about(
    field: DoubtField, row: int, column: int, patch_px: tuple[int, int], occupied: Sequence[Region] = ()
) -> Region | None:
    """The box that fits the doubt about a peak.

    Returns:
        None where the peak is occupied, or so close to it that no box of half a patch fits, or the box shows less than
        10 % tissue.
    """
    x, y = (
        min(round(cell * field.cell_px), edge - 1)
        for cell, edge in zip((column, row), field.slide_px, strict=True)
    )
    here = Region(x, y, 1, 1)
    if any(here.overlaps(region) for region in occupied):
        return None
    reach = [max(1, math.ceil(LARGEST * edge / field.cell_px)) for edge in reversed(patch_px)]
    top, left = max(row - reach[0], 0), max(column - reach[1], 0)
    window = field.values[top : row + reach[0] + 1, left : column + reach[1] + 1]
    largest = [LARGEST * edge / field.cell_px for edge in reversed(patch_px)]
    peak = (row - top, column - left)
    spans = _largest_that_fits(window, peak, np.minimum(field.thresholds, window[peak]), largest)
    edges = []
    for span, start, edge, slide_edge in zip(
        spans, (top, left), reversed(patch_px), reversed(field.slide_px), strict=True
    ):
        first = math.floor((start + span.start) * field.cell_px)
        behind = math.ceil((start + span.stop) * field.cell_px)
        edges.append(_widened(first, behind, math.ceil(SMALLEST * edge), slide_edge))
    (y, bottom), (x, right) = edges
    box = _cut_free(Region(x, y, right - x, bottom - y), here, patch_px, occupied)
    return box if box is not None and _tissue_share(field, box) >= LEAST_TISSUE else None


def _largest_that_fits(
    window: np.ndarray, peak: tuple[int, int], thresholds: np.ndarray, largest: Sequence[float]
) -> tuple[slice, slice]:
    """Rows and columns of the peak's component at the lowest threshold at which they are not too many."""

    def spans(step: int) -> tuple[slice, slice]:
        parts = np.zeros(window.shape, dtype=np.int32)
        label(window >= thresholds[step], output=parts)
        return find_objects(parts)[parts[peak] - 1]

    def fits(found: tuple[slice, slice]) -> bool:
        return all(span.stop - span.start <= most for span, most in zip(found, largest, strict=True))

    low, high = 0, len(thresholds) - 1
    if fits(spans(low)):
        return spans(low)
    # A plateau at the peak's own height may be too large at every threshold; then the peak's cell alone is the seed.
    if not fits(spans(high)):
        return slice(peak[0], peak[0] + 1), slice(peak[1], peak[1] + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(spans(middle)) else (middle, high)
    return spans(high)


def _widened(first: int, behind: int, least: int, whole: int) -> tuple[int, int]:
    """At least so long and inside the slide, about the same middle."""
    missing = max(least - (behind - first), 0)
    first = max(first - missing // 2, 0)
    behind = min(max(behind, first + min(least, whole)), whole)
    return max(min(first, behind - least), 0), behind


def _cut_free(
    box: Region, keep: Region, patch_px: tuple[int, int], occupied: Sequence[Region]
) -> Region | None:
    """The box without what is occupied, cut along the side that loses least; None where too little is left."""
    for other in occupied:
        if not box.overlaps(other):
            continue
        left = [
            (other.right, box.y, box.right, box.bottom),
            (box.x, other.bottom, box.right, box.bottom),
            (box.x, box.y, other.x, box.bottom),
            (box.x, box.y, box.right, other.y),
        ]
        parts = [Region(x, y, r - x, b - y) for x, y, r, b in left if r > x and b > y]
        parts = [part for part in parts if part.contains(keep)]
        if not parts:
            return None
        box = max(parts, key=lambda part: part.area_px)
    if box.width < math.floor(SMALLEST * patch_px[0]) or box.height < math.floor(SMALLEST * patch_px[1]):
        return None
    return box


def _cells(field: DoubtField, box: Region) -> tuple[slice, slice]:
    rows, columns = (
        slice(
            round(first / field.cell_px), max(round(behind / field.cell_px), round(first / field.cell_px) + 1)
        )
        for first, behind in ((box.y, box.bottom), (box.x, box.right))
    )
    return rows, columns


def _tissue_share(field: DoubtField, box: Region) -> float:
    cells = field.values[_cells(field, box)]
    return float((cells > OUTSIDE).mean()) if cells.size else 0.0
