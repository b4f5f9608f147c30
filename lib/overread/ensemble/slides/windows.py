"""Windows of a slide, cut from pieces that are read ahead, each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from overread.ensemble.slides.lattice import Lattice
from overread.imaging.slides.reading import ReadAhead
from overread.imaging.slides.slide import Slide

# Edge of a piece in pixels of the members: four or more of the tiles that slides are stored in.
PIECE = 512
# What lies beyond the slide looks like glass.
GLASS = 255


@dataclass(frozen=True)
class Row:
    """Windows of one row of the lattice that are looked at together.

    Attributes:
        band: number of the band of columns that it belongs to.
        window: the row's number; `columns`: the windows' numbers along it.
    """

    band: int
    window: int
    columns: tuple[int, ...]


_Key = tuple[int, int, int]


class WindowReader:
    """Goes through rows of windows in order while threads read what comes next.

    Args:
        rows: in the order in which they will be asked for, band after band, each from top to bottom.
        workers: threads.
        ahead: most pieces that wait to be used.
    """

    def __init__(
        self, slide: Slide, lattice: Lattice, rows: Sequence[Row], *, workers: int = 2, ahead: int = 16
    ) -> None:
        self._slide, self._lattice, self._rows = slide, lattice, rows
        self._held: dict[_Key, np.ndarray] = {}
        self._pieces = ReadAhead(self._keys(), self._read, workers=workers, ahead=ahead)

    @property
    def waited_s(self) -> float:
        """Seconds for which nothing had been read yet when it was needed."""
        return self._pieces.waited_s

    def close(self) -> None:
        """End the threads."""
        self._pieces.close()

    def rows(self) -> Iterator[Row]:
        """Each row, once its pieces are there."""
        for row in self._rows:
            missing = {key for key in self._touched(row) if key not in self._held}
            while missing:
                key, piece = next(self._pieces)
                self._held[key] = piece
                missing.discard(key)
            top = row.window * self._lattice.y.stride // PIECE
            # What lies above this row, or in a band that is done, is not needed again.
            for key in [key for key in self._held if key[0] != row.band or key[1] < top]:
                del self._held[key]
            yield row

    def cut(self, row: Row, columns: Sequence[int]) -> np.ndarray:
        """Windows of the present row, `(window, *patch as rows and columns, 3)` uint8."""
        height, width = self._lattice.y.patch, self._lattice.x.patch
        windows = np.empty((len(columns), height, width, 3), np.uint8)
        top = row.window * self._lattice.y.stride
        for window, column in zip(windows, columns, strict=True):
            left = column * self._lattice.x.stride
            for y, x in _pieces_under(top, top + height, left, left + width):
                piece = self._held[(row.band, y, x)]
                from_row, from_column = y * PIECE - top, x * PIECE - left
                rows = slice(max(0, from_row), min(height, from_row + PIECE))
                cols = slice(max(0, from_column), min(width, from_column + PIECE))
                window[rows, cols] = piece[
                    rows.start - from_row : rows.stop - from_row,
                    cols.start - from_column : cols.stop - from_column,
                ]
        return windows

    def _touched(self, row: Row) -> Iterator[_Key]:
        y, x = self._lattice.y, self._lattice.x
        top = row.window * y.stride
        for column in row.columns:
            left = column * x.stride
            for piece in _pieces_under(top, top + y.patch, left, left + x.patch):
                yield (row.band, *piece)

    def _keys(self) -> list[_Key]:
        """All pieces, each in its band from top to bottom: the order in which rows need them."""
        return sorted({key for row in self._rows for key in self._touched(row)})

    def _read(self, key: _Key) -> np.ndarray:
        top, left = key[1] * PIECE, key[2] * PIECE
        if top >= self._lattice.y.size or left >= self._lattice.x.size:
            return np.full((PIECE, PIECE, 3), GLASS, np.uint8)
        return self._slide.read_box(self._lattice.box_of(left, top, PIECE, PIECE), (PIECE, PIECE))


def _pieces_under(top: int, bottom: int, left: int, right: int) -> Iterator[tuple[int, int]]:
    for y in range(top // PIECE, (bottom - 1) // PIECE + 1):
        for x in range(left // PIECE, (right - 1) // PIECE + 1):
            yield y, x
