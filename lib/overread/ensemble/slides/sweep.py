"""The way through a slide's windows, row by row, and who is asked about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from overread.ensemble.slides.answers import Answers
from overread.ensemble.slides.blending import Strip
from overread.ensemble.slides.lattice import Lattice
from overread.ensemble.slides.speakers import Speakers
from overread.ensemble.slides.windows import Row, WindowReader


@dataclass(frozen=True)
class Band:
    """Columns that are gone through from top to bottom.

    Attributes:
        cells: columns of the maps.
        left, right: its first pixel and the one behind its last.
        rows: the windows that reach into it.
    """

    cells: slice
    left: int
    right: int
    rows: tuple[Row, ...]


def bands_of(lattice: Lattice, looked_at: np.ndarray, cells: tuple[slice, slice], widest: int) -> list[Band]:
    """Cut an area into bands of at most about `widest` pixels. Windows across a border belong to both.

    Args:
        looked_at: windows `(rows, columns)` bool.
        cells: rows and columns of the area.
    """
    x, y = lattice.x, lattice.y
    top, bottom = y.first_pixel(cells[0].start), y.first_pixel(cells[0].stop)
    columns = max(1, int(widest / x.cell))
    rows = y.touching(top, bottom)
    bands = []
    for start in range(cells[1].start, cells[1].stop, columns):
        part = slice(start, min(start + columns, cells[1].stop))
        left, right = x.first_pixel(part.start), x.first_pixel(part.stop)
        if right <= left:
            continue
        across = x.touching(left, right)
        chosen = looked_at[rows.start : rows.stop, across.start : across.stop]
        bands.append(
            Band(
                part,
                left,
                right,
                tuple(
                    Row(len(bands), window, tuple(int(c) + across.start for c in np.flatnonzero(line)))
                    for window, line in zip(rows, chosen, strict=True)
                    if line.any()
                ),
            )
        )
    return bands


class Sweep:
    """Shows windows to the members; with a threshold, to all but the first only where that one is not sure.

    Attributes:
        windows: shown so far; spared: of these, shown to the first member alone.
    """

    def __init__(
        self, speakers: Speakers, lattice: Lattice, reader: WindowReader, batch: int, cascade: float | None
    ) -> None:
        self._speakers, self._lattice, self._reader, self._batch = speakers, lattice, reader, batch
        self._cascade = cascade if len(speakers) > 1 else None
        self._arriving = reader.rows()
        self.windows = 0
        self.spared = 0

    @torch.inference_mode()
    def go_through(self, band: Band, strip: Strip, answers: Answers) -> Iterator[int]:
        """Ask about all windows of a band; yields how many windows were shown, all bands together."""
        for _ in band.rows:
            row = next(self._arriving)
            top = row.window * self._lattice.y.stride
            strip.move_to(top)
            answers.finish_above(top)
            sure: list[torch.Tensor] = []
            for columns in _batches(row.columns, self._batch):
                sure += self._first_round(row, columns, strip)
                self.windows += len(columns)
                yield self.windows
            if sure:
                is_sure = torch.cat(sure).cpu().tolist()
                self.spared += sum(is_sure)
                unsure = [column for column, skip in zip(row.columns, is_sure, strict=True) if not skip]
                for columns in _batches(unsure, self._batch):
                    self._blend(row, columns, slice(1, None), strip)
                    yield self.windows
        strip.move_to(self._lattice.y.size + self._lattice.y.patch)
        answers.finish_above(self._lattice.y.size)

    def _first_round(self, row: Row, columns: Sequence[int], strip: Strip) -> list[torch.Tensor]:
        """Everybody speaks or, in a cascade, the first member, whose word counts for all where it is sure."""
        sure = []
        if self._cascade is None:
            self._blend(row, columns, slice(None), strip)
        else:
            logits = self._blend(row, columns, slice(0, 1), strip)
            cores = [core_in(self._lattice, row.window, column) for column in columns]
            is_sure = self._speakers.doubt(logits[0], cores) < self._cascade
            for index, column in enumerate(columns):
                strip.add(column, logits[:, index] * is_sure[index], slice(1, None))
            sure.append(is_sure)
        for column in columns:
            strip.weigh(column)
        return sure

    def _blend(self, row: Row, columns: Sequence[int], members: slice, strip: Strip) -> torch.Tensor:
        logits = self._speakers.say(self._speakers.see(self._reader.cut(row, columns)), members)
        for index, column in enumerate(columns):
            strip.add(column, logits[:, index], members)
        return logits


def core_in(lattice: Lattice, row: int, column: int) -> tuple[slice, slice]:
    """Rows and columns of a window's core within the window."""
    parts = []
    for axis, window in ((lattice.y, row), (lattice.x, column)):
        low, high = axis.core(window)
        parts.append(slice(low - window * axis.stride, high - window * axis.stride))
    return parts[0], parts[1]


def _batches(columns: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(columns), size):
        yield columns[start : start + size]
