"""From the members' logits to label pictures and to the cells of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from overread.domain import OpinionSums, first_choice
from overread.ensemble.ensemble import KindsOfDoubt
from overread.ensemble.slides.lattice import Axis, Lattice
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.slides.mosaic import LabelMosaic
from overread.uncertainty.calibration import DoubtBands
from overread.uncertainty.measures import MEASURES


@dataclass(frozen=True, eq=False)
class Pictures:
    """Label pictures of a region, at the members' pixel size.

    Attributes:
        left, top: their first pixel on the lattice.
        labels, some, every, bands: see `SlidePrediction`.
    """

    left: int
    top: int
    labels: LabelMosaic
    some: LabelMosaic
    every: LabelMosaic
    bands: LabelMosaic

    @classmethod
    def blank(cls, left: int, top: int, right: int, bottom: int) -> Pictures:
        """Background everywhere, no doubt."""
        size = (right - left, bottom - top)
        return cls(left, top, *(LabelMosaic(size) for _ in range(4)))

    def write(self, row: int, column: int, values: np.ndarray) -> None:
        """Put `(labels, some, every, bands)` `(4, rows, columns)` in place; what lies outside is left out."""
        width, height = self.labels.size
        y, x = row - self.top, column - self.left
        rows = slice(max(0, -y), min(values.shape[1], height - y))
        columns = slice(max(0, -x), min(values.shape[2], width - x))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        for mosaic, picture in zip((self.labels, self.some, self.every, self.bands), values, strict=True):
            mosaic.write(x + columns.start, y + rows.start, np.ascontiguousarray(picture[rows, columns]))


class Answers:
    """Turns finished pixels of a band into pictures and maps.

    Args:
        measures: names of the fields in `maps.maps` that are made, beside the one that the queue asks by.
        kinds: of doubt, which are fields in `maps.maps`, too; None makes none.
        bands: thresholds that cut one of them; None makes no bands.
        cells: rows and columns of the maps that are written: the band's.
        pictures: drawn into; None draws none.
        maps: is written to.
    """

    def __init__(
        self,
        lattice: Lattice,
        temperature: float,
        measures: Sequence[str],
        kinds: KindsOfDoubt | None,
        bands: DoubtBands | None,
        cells: tuple[slice, slice],
        pictures: Pictures | None,
        maps: SlideMaps,
        device: torch.device,
    ) -> None:
        self._lattice, self._temperature, self._bands = lattice, temperature, bands
        self._measures = {name: MEASURES[name] for name in dict.fromkeys((*measures, maps.asked_by))}
        self._kinds = kinds
        self._names = (*self._measures, *(kinds.names if kinds is not None else ()))
        self._rows, self._columns = cells
        self._pictures, self._maps = pictures, maps
        self._members, self._foreground = maps.sizes.shape[:2]
        self._pairs = torch.tensor(maps.pairs, dtype=torch.long, device=device).reshape(-1, 2)
        fields = len(self._names) + self._foreground * (2 + self._members + len(maps.pairs))
        # One window's height of cells, and those that it only touches.
        depth = int(lattice.y.patch / lattice.y.cell) + 3
        self._first = self._rows.start
        self._sums = torch.zeros(fields, depth, self._columns.stop - self._columns.start, device=device)

    def add(self, row: int, column: int, logits: torch.Tensor, answered: torch.Tensor) -> None:
        """Take in finished pixels.

        Args:
            row, column: of the upper left one.
            logits: `(member, class, rows, columns)`.
            answered: `(rows, columns)` bool; the others stay background without doubt.
        """
        sums, votes = OpinionSums(), []
        for member_logits in logits:
            opinion = torch.softmax(member_logits / self._temperature, dim=0)
            sums.add(opinion)
            votes.append(first_choice(opinion))
        mean = sums.mean
        doubts = {name: measure(sums).values for name, measure in self._measures.items()}
        if self._pictures is not None:
            self._pictures.write(row, column, self._drawn(sums, mean, doubts, answered))
        votes = torch.stack(votes)
        of_class = torch.stack([votes == index + 1 for index in range(self._foreground)], dim=1)
        overlaps = of_class[self._pairs[:, 0]] & of_class[self._pairs[:, 1]]
        space = mean.shape[1:]
        fields = torch.cat(
            [
                mean[1:],
                torch.stack(list(doubts.values())),
                *self._by_kind(logits),
                doubts[self._maps.asked_by] * mean[1:],
                of_class.reshape(-1, *space).float(),
                overlaps.reshape(-1, *space).float(),
            ]
        )
        fields *= answered
        self._pool(row, column, fields)

    def _by_kind(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """`(kind, rows, columns)`; nothing where no kinds are told apart."""
        return [] if self._kinds is None else [self._kinds.split(logits / self._temperature)]

    def _drawn(
        self, sums: OpinionSums, mean: torch.Tensor, doubts: dict[str, torch.Tensor], answered: torch.Tensor
    ) -> np.ndarray:
        """`(labels, some, every, bands)` as uint8 pictures."""
        votes, first = sums.votes.max(dim=0)
        most, named = sums.votes[1:].max(dim=0)
        pictures = torch.zeros(4, *mean.shape[1:], dtype=torch.uint8, device=mean.device)
        pictures[0] = first_choice(mean)
        pictures[1] = torch.where(most > 0, named + 1, 0)
        pictures[2] = torch.where(votes == sums.members, first, 0)
        if self._bands is not None:
            doubt = doubts[self._bands.measure]
            pictures[3] = (doubt >= self._bands.moderate).to(torch.uint8) + (doubt >= self._bands.high)
        return (pictures * answered).cpu().numpy()

    def _pool(self, row: int, column: int, fields: torch.Tensor) -> None:
        """Add up pixels by cell, rows first: that leaves an eighth or less for the columns."""
        x, y = self._lattice.x, self._lattice.y
        rows = y.cells_of(np.arange(row, row + fields.shape[1])) - self._first
        columns = x.cells_of(np.arange(column, column + fields.shape[2])) - self._columns.start
        # The last pixel may have its centre beyond the slide.
        rows, columns = (
            np.clip(rows, None, self._maps.shape[0] - 1 - self._first),
            np.clip(columns, None, self._sums.shape[2] - 1),
        )
        inside = (rows >= 0) & (rows < self._rows.stop - self._first)
        if not inside.any():
            return
        fields, rows = fields[:, inside.argmax() : len(inside) - inside[::-1].argmax()], rows[inside]
        device = fields.device
        by_row = fields.new_zeros(len(fields), rows[-1] - rows[0] + 1, fields.shape[2])
        by_row.index_add_(1, torch.from_numpy(rows - rows[0]).to(device), fields)
        by_cell = fields.new_zeros(columns[-1] - columns[0] + 1, *by_row.shape[:2])
        by_cell.index_add_(
            0, torch.from_numpy(columns - columns[0]).to(device), by_row.permute(2, 0, 1).contiguous()
        )
        place = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        self._sums[(slice(None), *place)] += by_cell.permute(1, 2, 0)

    def finish_above(self, row: int) -> None:
        """Write the cells that no pixel from `row` on belongs to."""
        y = self._lattice.y
        upto = self._rows.stop
        if row < y.size:
            upto = min(upto, int(y.cells_of(np.array([row]))[0]))
        while self._first < upto:
            count = min(upto - self._first, self._sums.shape[1])
            self._write(count)
            self._sums = torch.cat([self._sums[:, count:], torch.zeros_like(self._sums[:, :count])], dim=1)
            self._first += count

    def _write(self, count: int) -> None:
        maps, x, y = self._maps, self._lattice.x, self._lattice.y
        cells = (slice(self._first, self._first + count), self._columns)
        heights, widths = (
            np.array([_pixels(axis, cell, last) for cell in range(part.start, part.stop)])
            for axis, part, last in ((y, cells[0], maps.shape[0]), (x, cells[1], maps.shape[1]))
        )
        pixels = np.maximum(heights[:, None] * widths, 1).astype(np.float32)
        means = self._sums[:, :count].cpu().numpy() / pixels
        foreground, done = self._foreground, 0

        def take(number: int) -> np.ndarray:
            nonlocal done
            done += number
            return means[done - number : done]

        probability = take(foreground)
        maps.probability[(slice(1, None), *cells)] = probability
        maps.probability[(0, *cells)] = np.clip(1 - probability.sum(axis=0), 0, 1)
        for name, values in zip(self._names, take(len(self._names)), strict=True):
            maps.maps[name][cells] = values
        maps.class_doubt[(slice(None), *cells)] = take(foreground)
        shape = (-1, foreground, *pixels.shape)
        maps.sizes[(..., *cells)] = take(self._members * foreground).reshape(shape)
        maps.overlaps[(..., *cells)] = take(len(maps.pairs) * foreground).reshape(len(maps.pairs), *shape[1:])
        maps.known[cells] = maps.tissue[cells]


def _pixels(axis: Axis, cell: int, cells: int) -> int:
    """Pixels along one edge of a cell; the last cell takes what is left."""
    stop = axis.size if cell == cells - 1 else axis.first_pixel(cell + 1)
    return stop - axis.first_pixel(cell)
