"""Slides that are asked about: opened when they are needed, their tissue remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from math import ceil
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from overread.domain import NotFoundError, PixelSize
from overread.ensemble.slides.maps import CELL
from overread.imaging.slides.files import state_of
from overread.imaging.slides.slide import Slide, open_slide
from overread.imaging.slides.tissue import TissueMask, find_tissue

Value = TypeVar("Value")

# A mask takes a megabyte or two.
KEPT_MASKS = 32


class OpenedSlides:
    """Opens slides, and remembers what costs time to find out.

    Args:
        assumed: pixel size of slides that do not tell theirs.
    """

    def __init__(self, assumed: PixelSize) -> None:
        self.assumed = assumed
        self._masks: Remembered[TissueMask] = Remembered(KEPT_MASKS)

    def open(self, path: Path) -> Slide:
        """The slide; the caller closes it. Raises BadInputError and NotFoundError as `open_slide`."""
        return open_slide(path, self.assumed)

    def tissue(self, slide: Slide) -> TissueMask:
        """Where the slide has tissue."""
        return self._masks.of(version_of(slide.path), lambda: find_tissue(slide))


def all_tissue(slide: Slide) -> TissueMask:
    """A mask by which everything is looked at: of a picture that somebody cut out there is no glass to find."""
    cell = PixelSize(max(CELL.um, slide.pixel_size.um))
    edge = cell / slide.pixel_size
    width, height = slide.size_px
    return TissueMask(np.ones((ceil(height / edge), ceil(width / edge)), bool), cell, slide.pixel_size)


class Remembered(Generic[Value]):
    """The values that were asked for last; what two threads need at once is found once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._guard = threading.Lock()
        self._found: OrderedDict[Hashable, Value] = OrderedDict()
        self._searching: dict[Hashable, threading.Lock] = {}

    def of(self, key: Hashable, find: Callable[[], Value]) -> Value:
        """The value of a key; `find` is called where it is not remembered."""
        with self._guard:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            searching = self._searching.setdefault(key, threading.Lock())
        with searching:
            with self._guard:
                if key in self._found:
                    return self._found[key]
            try:
                value = find()
            finally:
                with self._guard:
                    self._searching.pop(key, None)
            with self._guard:
                self._found[key] = value
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
            return value


def version_of(path: Path) -> tuple[str, int, int]:
    """Changes when another file takes the path. Raises NotFoundError where there is none."""
    try:
        size, changed_ns = state_of(path)
    except OSError as error:
        raise NotFoundError(f"slide {path.name} is not there any more") from error
    return str(path), changed_ns, size
