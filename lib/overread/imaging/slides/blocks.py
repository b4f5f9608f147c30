"""Blocks of a slide's levels, the last used ones kept."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

import numpy as np

from overread.imaging.slides.sources import Source

KEPT_BYTES = 128 * 2**20
Place = tuple[int, int, int]


class BlockCache:
    """Each block is decoded once while it is in use, whatever the number of threads that ask for it."""

    def __init__(self, source: Source, kept_bytes: int = KEPT_BYTES) -> None:
        self._source = source
        self._kept_bytes = kept_bytes
        self._lock = Lock()
        self._kept: OrderedDict[Place, Future[np.ndarray]] = OrderedDict()
        self._bytes = 0

    def paste(self, level: int, box: tuple[int, int, int, int], target: np.ndarray) -> None:
        """Copy what lies in (left, top, right, bottom), in pixels of the level, into the target's upper left corner."""
        left, top, right, bottom = box
        width, height = self._source.blocks[level]
        for row in range(top // height, (bottom - 1) // height + 1):
            for column in range(left // width, (right - 1) // width + 1):
                x, y = column * width, row * height
                block = self._block((level, column, row))[
                    max(top - y, 0) : bottom - y, max(left - x, 0) : right - x
                ]
                to_y, to_x = max(y - top, 0), max(x - left, 0)
                target[to_y : to_y + block.shape[0], to_x : to_x + block.shape[1]] = block

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _block(self, place: Place) -> np.ndarray:
        with self._lock:
            coming = self._kept.get(place)
            if coming is not None:
                self._kept.move_to_end(place)
            else:
                mine = self._kept[place] = Future()
        if coming is not None:
            return coming.result()
        try:
            block = self._source.read_block(*place)
        except BaseException as error:
            with self._lock:
                self._kept.pop(place, None)
            mine.set_exception(error)
            raise
        with self._lock:
            mine.set_result(block)
            if self._kept.get(place) is mine:
                self._bytes += block.nbytes
                self._make_room()
        return block

    def _make_room(self) -> None:
        # A block that somebody still reads is not counted yet.
        for place, block in list(self._kept.items()):
            if self._bytes <= self._kept_bytes:
                return
            if block.done():
                self._bytes -= block.result().nbytes
                del self._kept[place]
