"""Pixels of any size from the levels of a pyramid, without seams."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from overread.imaging.slides.blocks import BlockCache
from overread.imaging.slides.sources import Source

# A level that is this much too coarse is as good as the right one: 0.2525 µm are read from 0.25 µm.
TOLERANCE = 1.02
# Level pixels that are in memory at once, 48 MB.
MOST_LEVEL_PX = 16_000_000


class Sampler:
    """Reads boxes of a slide from the level that is just fine enough.

    Attributes:
        downsamples: how many level-0 pixels lie along one of each level.
    """

    def __init__(self, source: Source) -> None:
        self.downsamples = tuple(_downsample(source.sizes[0], size) for size in source.sizes)
        self._sizes = source.sizes
        self._blocks = BlockCache(source)

    def read_box(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Read between level-0 places (left, top, right, bottom), which may lie within pixels.

        Each pixel of the answer is the weighted mean (Hamming window) of what lies beneath it, also across the box's
        border: neighbouring boxes fit each other without a seam.
        """
        left, top, right, bottom = box
        columns, rows = size
        shrink = min((right - left) / columns, (bottom - top) / rows)
        level = max(i for i, factor in enumerate(self.downsamples) if i == 0 or factor <= shrink * TOLERANCE)
        factor = self.downsamples[level]
        step = ((right - left) / columns / factor, (bottom - top) / rows / factor)
        picture = np.empty((rows, columns, 3), np.uint8)
        edge = max(1, math.isqrt(int(MOST_LEVEL_PX / max(1.0, step[0] * step[1]))))
        for row in range(0, rows, edge):
            for column in range(0, columns, edge):
                part = picture[row : row + edge, column : column + edge]
                start = (left / factor + column * step[0], top / factor + row * step[1])
                part[:] = self._resampled(level, start, step, (part.shape[1], part.shape[0]))
        return picture

    def _resampled(
        self, level: int, start: tuple[float, float], step: tuple[float, float], size: tuple[int, int]
    ) -> np.ndarray:
        """Pixels of `step` level pixels from `start` on."""
        # Rounding may leave 1023.9999999; nothing in a file lies that close to a border without being on it.
        start = (round(start[0], 6), round(start[1], 6))
        end = tuple(
            round(begin + each * count, 6) for begin, each, count in zip(start, step, size, strict=True)
        )
        if all(abs(each - 1) < 1e-9 for each in step) and all(begin.is_integer() for begin in start):
            return self._level_pixels(level, int(start[0]), int(start[1]), *size)
        halo = [math.ceil(max(1.0, each)) + 1 for each in step]
        x, y = math.floor(start[0]) - halo[0], math.floor(start[1]) - halo[1]
        right, bottom = math.ceil(end[0]) + halo[0], math.ceil(end[1]) + halo[1]
        pixels = Image.fromarray(self._level_pixels(level, x, y, right - x, bottom - y))
        box = (start[0] - x, start[1] - y, end[0] - x, end[1] - y)
        enlarges = min(step) < 1
        return np.asarray(
            pixels.resize(size, Image.Resampling.BILINEAR if enlarges else Image.Resampling.HAMMING, box=box)
        )

    def _level_pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A rectangle of a level; white outside the slide."""
        pixels = np.full((height, width, 3), 255, np.uint8)
        columns, rows = self._sizes[level]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
        if right <= left or bottom <= top:
            return pixels
        self._blocks.paste(level, (left, top, right, bottom), pixels[top - y :, left - x :])
        # A level's last column may stand for a part of a pixel that the scanner dropped: the slide goes on there.
        factor = self.downsamples[level]
        whole_columns, whole_rows = (math.ceil(edge / factor) for edge in self._sizes[0])
        if columns < whole_columns < columns + 3 and x + width > columns > x:
            pixels[:, columns - x : whole_columns - x] = pixels[:, columns - x - 1 : columns - x]
        if rows < whole_rows < rows + 3 and y + height > rows > y:
            pixels[rows - y : whole_rows - y] = pixels[rows - y - 1 : rows - y]
        return pixels

    def close(self) -> None:
        """Forget the blocks that were kept."""
        self._blocks.clear()


def _downsample(full: tuple[int, int], level: tuple[int, int]) -> float:
    """How many level-0 pixels lie along one of the level.

    Scanners halve and drop what is left over: 4443 x 3567 over 2221 x 1783 is 2, not 2.0005, which would be off by
    a pixel at the far edge.
    """
    factor = (full[0] / level[0] + full[1] / level[1]) / 2
    whole = round(factor)
    return float(whole) if all(abs(a / whole - b) <= 1 for a, b in zip(full, level, strict=True)) else factor
