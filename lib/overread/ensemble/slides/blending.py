"""Windows' logits blended where they overlap, handed on as soon as no later window touches them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from overread.ensemble.slides.lattice import Lattice
from overread.imaging.windows import gaussian_weight

# Pixels that are handed on at a time, along columns.
RUN = 2048
# A pixel without any window has weight 0; it is never handed on.
SMALLEST_WEIGHT = 1e-30

# Row and column of the upper left pixel, logits `(member, class, rows, columns)`, which of the pixels are answered.
Finish = Callable[[int, int, torch.Tensor, torch.Tensor], None]


class Strip:
    """The members' logits over one window's height of a band of columns.

    Args:
        looked_at: windows `(rows, columns)` bool that are looked at; pixels in the core of one are answered.
        voices: members and classes.
        columns: the band's first pixel and the one behind its last.
        finish: told each run of answered pixels, from top to bottom.
    """

    def __init__(
        self,
        lattice: Lattice,
        looked_at: np.ndarray,
        voices: tuple[int, int],
        columns: tuple[int, int],
        device: torch.device,
        finish: Finish,
    ) -> None:
        self._lattice, self._looked_at, self._device, self._finish = lattice, looked_at, device, finish
        self._left, self._right = columns
        self._top = 0
        height, width = lattice.y.patch, lattice.x.patch
        self._sums = torch.zeros(*voices, height, self._right - self._left, device=device)
        self._weights = torch.zeros(self._sums.shape[2:], device=device)
        self._weight = gaussian_weight((height, width)).to(device)
        self._is_blank = True

    def add(self, column: int, logits: torch.Tensor, member: slice = slice(None)) -> None:
        """Blend in one window of the present row: logits `(member, class, *patch)` of some of the members."""
        here, there = self._places(column)
        self._sums[member, :, :, here].addcmul_(logits[..., there], self._weight[:, there])

    def weigh(self, column: int) -> None:
        """Count one window of the present row, once all members have spoken about it."""
        here, there = self._places(column)
        self._weights[:, here] += self._weight[:, there]
        self._is_blank = False

    def _places(self, column: int) -> tuple[slice, slice]:
        start = column * self._lattice.x.stride - self._left
        low, high = max(start, 0), min(start + self._lattice.x.patch, self._sums.shape[-1])
        return slice(low, high), slice(low - start, high - start)

    def move_to(self, top: int) -> None:
        """Hand on all rows above `top`, which becomes the first row."""
        height = self._lattice.y.patch
        rows = top - self._top
        if not self._is_blank and rows > 0:
            self._hand_on(min(rows, height))
            _move_up(self._sums, 2, rows)
            _move_up(self._weights, 0, rows)
            self._is_blank = rows >= height
        self._top = top

    def _hand_on(self, rows: int) -> None:
        rows = min(rows, self._lattice.y.size - self._top)
        if rows <= 0:
            return
        x, y = self._lattice.x, self._lattice.y
        above = y.cores_of(np.arange(self._top, self._top + rows))
        across = x.cores_of(np.arange(self._left, self._right))
        answered = self._looked_at[np.ix_(above, across)]
        for start, stop in _runs(answered.any(axis=0)):
            columns = slice(start, stop)
            logits = self._sums[:, :, :rows, columns]
            logits = logits / self._weights[:rows, columns].clamp_min(SMALLEST_WEIGHT)
            mask = torch.from_numpy(np.ascontiguousarray(answered[:, columns])).to(self._device)
            self._finish(self._top, self._left + start, logits, mask)


def _runs(line: np.ndarray) -> list[tuple[int, int]]:
    """Where the line is true, in pieces of at most `RUN`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return [
        (low, min(low + RUN, stop))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        for low in range(start, stop, RUN)
    ]


def _move_up(field: torch.Tensor, axis: int, by: int) -> None:
    """Move `field` towards index 0 along `axis` and fill up with zeros, piece by piece without a copy of it."""
    size = field.shape[axis]
    by = min(by, size)
    for index in range(0, size - by, by):
        count = min(by, size - by - index)
        field.narrow(axis, index, count).copy_(field.narrow(axis, index + by, count))
    field.narrow(axis, size - by, by).zero_()
