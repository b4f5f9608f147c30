"""Sums over many overlapping rectangles of a slide's low-power field, in one pass over the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.ensemble.slides.maps import SlideMaps


@dataclass(frozen=True, eq=False)
class Boxes:
    """Rectangles of cells: every row span with every column span.

    Attributes:
        tops: first row of each row span; bottoms: the row behind it.
        lefts: first column of each column span; rights: the column behind it.
    """

    tops: np.ndarray
    bottoms: np.ndarray
    lefts: np.ndarray
    rights: np.ndarray

    @classmethod
    def of(cls, maps: SlideMaps, xs: np.ndarray, ys: np.ndarray, size_px: tuple[int, int]) -> Boxes:
        """The cells of patches whose left and upper edges are `xs` and `ys`, in level-0 pixels."""
        cell_px = maps.cell / maps.slide_pixel_size
        rows, columns = maps.tissue.shape
        tops, bottoms = _spans(ys, size_px[1], cell_px, rows)
        lefts, rights = _spans(xs, size_px[0], cell_px, columns)
        return cls(tops, bottoms, lefts, rights)

    @property
    def areas(self) -> np.ndarray:
        """Cells of each rectangle, `(row span, column span)`."""
        return np.outer(self.bottoms - self.tops, self.rights - self.lefts)

    def sums(self, field: np.ndarray) -> np.ndarray:
        """Sum of a field `(rows, columns)` over each rectangle, `(row span, column span)`."""
        along_rows = _running(field, self.tops, self.bottoms)
        return _running(along_rows.T, self.lefts, self.rights).T


def _spans(starts: np.ndarray, edge: int, cell_px: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.minimum(np.round(starts / cell_px).astype(int), cells - 1)
    behind = np.minimum(np.round((starts + edge) / cell_px).astype(int), cells)
    return first, np.maximum(behind, first + 1)


def _running(field: np.ndarray, first: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Sums over spans of rows: what lies between two neighbouring ends is summed once."""
    ends = np.unique(np.concatenate([first, behind]))
    pieces = np.add.reduceat(field[: ends[-1]], ends[:-1], axis=0, dtype=np.float64)
    running = np.concatenate([np.zeros((1, field.shape[1])), np.cumsum(pieces, axis=0)])
    return running[np.searchsorted(ends, behind)] - running[np.searchsorted(ends, first)]
