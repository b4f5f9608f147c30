"""Where the windows of a slide lie, in pixels of the members.

All of it follows from the slide and the ensemble alone, so a region gets the windows that the whole slide would get.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from overread.domain import PixelSize, Region

# A border that falls on another may come out a hair to either side of it.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: they begin at multiples of `stride`; the last may reach beyond the slide.

    Attributes:
        size: pixels of the slide along it.
        patch: pixels of a window.
        stride: pixels from one window to the next.
        cell: pixels of a map's cell, not always whole.
    """

    size: int
    patch: int
    stride: int
    cell: float

    @property
    def count(self) -> int:
        """Windows."""
        return 1 + max(0, ceil((self.size - self.patch) / self.stride))

    def core(self, window: int) -> tuple[int, int]:
        """The pixels that this window knows best: its middle; at the slide's ends, up to there. Cores tile the axis."""
        margin = (self.patch - self.stride) // 2
        low = 0 if window == 0 else window * self.stride + margin
        last = window == self.count - 1
        return low, self.size if last else (window + 1) * self.stride + margin

    def cores_of(self, pixels: np.ndarray) -> np.ndarray:
        """In which window's core each pixel lies."""
        margin = (self.patch - self.stride) // 2
        return np.clip((pixels - margin) // self.stride, 0, self.count - 1)

    def touching(self, low: int, high: int) -> range:
        """Windows that share a pixel with [low, high)."""
        first = max(0, (low - self.patch) // self.stride + 1)
        return range(first, min(self.count, (high - 1) // self.stride + 1))

    def cells_of(self, pixels: np.ndarray) -> np.ndarray:
        """The cell that each pixel's centre lies in."""
        return np.floor((pixels + 0.5) / self.cell + ROUNDING).astype(np.int64)

    def first_pixel(self, cell: int) -> int:
        """The first pixel of a cell; for the cell behind the last one, `size`."""
        return min(self.size, max(0, ceil(cell * self.cell - 0.5 - ROUNDING)))


@dataclass(frozen=True)
class Lattice:
    """Windows over a slide.

    Attributes:
        x, y: along columns and rows.
        px: level-0 pixels along one of the members' pixels.
        slide_px: width and height of level 0.
    """

    x: Axis
    y: Axis
    px: float
    slide_px: tuple[int, int]

    @classmethod
    def over(
        cls,
        slide_px: tuple[int, int],
        slide_pixel: PixelSize,
        pixel: PixelSize,
        patch: tuple[int, int],
        step: float,
        cell: PixelSize,
    ) -> Lattice:
        """The lattice of a slide for windows of `patch` (x, y) pixels of size `pixel`, `step` of a window apart."""
        px = pixel / slide_pixel
        x, y = (
            Axis(max(1, ceil(n / px - ROUNDING)), edge, max(1, round(edge * step)), cell / pixel)
            for n, edge in zip(slide_px, patch, strict=True)
        )
        return cls(x, y, px, slide_px)

    def pixels_of(self, region: Region) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a region, out to whole pixels."""
        left, top = (max(0, floor(n / self.px + ROUNDING)) for n in (region.x, region.y))
        right, bottom = (ceil(n / self.px - ROUNDING) for n in (region.right, region.bottom))
        return left, top, min(max(right, left + 1), self.x.size), min(max(bottom, top + 1), self.y.size)

    def region_of(self, left: int, top: int, right: int, bottom: int) -> Region:
        """Where pixels lie on level 0; they may reach beyond the slide."""
        x, y, end_x, end_y = (round(n * self.px) for n in (left, top, right, bottom))
        return Region(x, y, max(1, end_x - x), max(1, end_y - y))

    def box_of(self, left: int, top: int, width: int, height: int) -> tuple[float, float, float, float]:
        """The same with borders within level-0 pixels: left, top, right, bottom."""
        return left * self.px, top * self.px, (left + width) * self.px, (top + height) * self.px

    def tissue_in_cores(self, tissue: np.ndarray) -> np.ndarray:
        """Share of the cells under each window's core that hold tissue, `(rows, columns)` of windows.

        Args:
            tissue: `(rows, columns)` bool, of cells.
        """
        sums = np.pad(tissue.astype(np.int64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        ends = []
        for axis, cells in ((self.y, tissue.shape[0]), (self.x, tissue.shape[1])):
            cores = np.array([axis.core(window) for window in range(axis.count)])
            low = np.minimum(axis.cells_of(cores[:, 0]), cells - 1)
            ends.append((low, np.minimum(axis.cells_of(cores[:, 1] - 1), cells - 1) + 1))
        (top, bottom), (left, right) = ends
        counts = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)]
        counts -= sums[np.ix_(bottom, left)] - sums[np.ix_(top, left)]
        return counts / np.outer(bottom - top, right - left)
