"""Pixels of any size from the levels of a pyramid, without seams."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from overread.imaging.slides.blocks import BlockCache
from overread.imaging.slides.sources import Source, downsample

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
        self.downsamples = tuple(downsample(source.sizes[0], size) for size in source.sizes)
        self._sizes = source.sizes
        self._blocks = BlockCache(source)

    def read_box(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Read between level-0 places (left, top, right, bottom), which may lie within pixels.

        Each pixel of the answer is the weighted mean (triangle of twice its width) of what lies there, also across
        the box's border: neighbouring boxes fit each other without a seam. Pixels whose middle lies beyond the slide
        are white, and do not shine into the others.
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
        width, height = self._sizes[0]
        picture[:, _is_beyond(left, right, columns, width)] = 255
        picture[_is_beyond(top, bottom, rows, height)] = 255
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
        # The triangle leaves a feature's middle where it is; windows that are sharper shift it within a pixel.
        return np.asarray(pixels.resize(size, Image.Resampling.BILINEAR, box=box))

    def _level_pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A rectangle of a level; beyond it, its border goes on."""
        pixels = np.full((height, width, 3), 255, np.uint8)
        columns, rows = self._sizes[level]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
        if right <= left or bottom <= top:
            return pixels
        left, top, right, bottom = left - x, top - y, right - x, bottom - y
        self._blocks.paste(level, (left + x, top + y, right + x, bottom + y), pixels[top:, left:])
        pixels[:, :left] = pixels[:, left : left + 1]
        pixels[:, right:] = pixels[:, right - 1 : right]
        pixels[:top] = pixels[top]
        pixels[bottom:] = pixels[bottom - 1]
        return pixels

    def close(self) -> None:
        """Forget the blocks that were kept."""
        self._blocks.clear()


def _is_beyond(start: float, end: float, count: int, length: int) -> np.ndarray:
    """Which of `count` pixels between two places have their middle outside of 0..length."""
    middles = start + (np.arange(count) + 0.5) * (end - start) / count
    return (middles < 0) | (middles > length)
