"""A label picture as large as a slide, in little memory."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from overread.domain.errors import BadInputError

# Blocks that stay unpacked: neighbouring writes mostly hit the same few.
OPEN_BLOCKS = 16
# Label pictures are long runs of one number: the fastest level already packs them a hundredfold.
LEVEL = 1


class LabelMosaic:
    """A uint8 picture, all zero at first, kept as compressed blocks. Blocks of zeros are not kept at all.

    Several threads may read and write.

    Attributes:
        size: width and height in pixels.
        block: edge of a block in pixels; blocks at the right and lower border are smaller.
    """

    def __init__(self, size: tuple[int, int], block: int = 1024) -> None:
        if min(size) < 1 or block < 1:
            raise BadInputError(
                f"a mosaic of {size[0]} x {size[1]} pixels in blocks of {block} is empty; expected 1 or more"
            )
        self.size = size
        self.block = block
        self._packed: dict[tuple[int, int], bytes] = {}
        self._open: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Bytes that its blocks take now."""
        with self._lock:
            return sum(map(len, self._packed.values())) + sum(block.nbytes for block in self._open.values())

    def write(self, x: int, y: int, array: np.ndarray) -> None:
        """Put a (rows, columns) uint8 picture with its upper left pixel at column x, row y.

        Raises:
            BadInputError: it does not lie inside the mosaic, or is no uint8 picture.
        """
        if array.ndim != 2 or array.dtype != np.uint8:
            raise BadInputError(
                f"a mosaic holds uint8 pictures of rows and columns, not {array.dtype} of shape {array.shape}"
            )
        self._require_inside(x, y, array.shape[1], array.shape[0])
        with self._lock:
            for key, inside, outside in self._pieces(x, y, array.shape[1], array.shape[0]):
                piece = array[outside]
                if piece.any() or key in self._packed or key in self._open:
                    self._unpacked(key)[inside] = piece

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        """The (h, w) uint8 picture whose upper left pixel is column x, row y.

        Raises:
            BadInputError: it does not lie inside the mosaic.
        """
        self._require_inside(x, y, w, h)
        picture = np.zeros((h, w), dtype=np.uint8)
        with self._lock:
            for key, inside, outside in self._pieces(x, y, w, h):
                if key in self._packed or key in self._open:
                    picture[outside] = self._peek(key)[inside]
        return picture

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """x, y and a copy of every block that holds a label, row by row."""
        with self._lock:
            keys = sorted({*self._packed, *self._open})
        for row, column in keys:
            with self._lock:
                picture = self._peek((row, column)).copy()
            if picture.any():
                yield column * self.block, row * self.block, picture

    def _require_inside(self, x: int, y: int, w: int, h: int) -> None:
        if min(x, y) < 0 or min(w, h) < 1 or x + w > self.size[0] or y + h > self.size[1]:
            raise BadInputError(
                f"the piece of {w} x {h} pixels at ({x}, {y}) does not lie in the mosaic "
                f"of {self.size[0]} x {self.size[1]}"
            )

    def _pieces(
        self, x: int, y: int, w: int, h: int
    ) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """For every block that the rectangle meets: its key, where in the block, where in the rectangle."""
        for row in range(y // self.block, (y + h - 1) // self.block + 1):
            rows = _shared(row * self.block, self.block, y, h)
            for column in range(x // self.block, (x + w - 1) // self.block + 1):
                columns = _shared(column * self.block, self.block, x, w)
                yield (row, column), (rows[0], columns[0]), (rows[1], columns[1])

    def _shape(self, key: tuple[int, int]) -> tuple[int, int]:
        return (
            min(self.block, self.size[1] - key[0] * self.block),
            min(self.block, self.size[0] - key[1] * self.block),
        )

    def _peek(self, key: tuple[int, int]) -> np.ndarray:
        """The block's picture, not to be written into."""
        if key in self._open:
            return self._open[key]
        return np.frombuffer(zlib.decompress(self._packed[key]), dtype=np.uint8).reshape(self._shape(key))

    def _unpacked(self, key: tuple[int, int]) -> np.ndarray:
        """The block's picture, to be written into."""
        if key not in self._open:
            is_known = key in self._packed
            self._open[key] = self._peek(key).copy() if is_known else np.zeros(self._shape(key), np.uint8)
            self._packed.pop(key, None)
        self._open.move_to_end(key)
        while len(self._open) > OPEN_BLOCKS:
            oldest, picture = self._open.popitem(last=False)
            if picture.any():
                self._packed[oldest] = zlib.compress(picture.tobytes(), LEVEL)
        return self._open[key]


def _shared(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """What two intervals share, counted from the start of either."""
    low, high = max(start, other), min(start + length, other + other_length)
    return slice(low - start, high - start), slice(low - other, high - other)
