"""The patches of a slide that could be asked about, and which of them are free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from overread.domain import BadInputError, PixelSize, Region
from overread.ensemble.slides.maps import SlideMaps
from overread.meduhip.doubt import OF_ONE_NETWORK
from overread.queue.patches.sums import Boxes

# Neighbouring candidates lie a quarter of a patch apart (nnActive, arXiv:2511.19183, and methods A7).
STEPS_PER_PATCH = 4
# A patch with less tissue is not asked about (arXiv:2307.07168).
LEAST_TISSUE = 0.1
# Of a patch's tissue, so much must have been looked at before its doubt counts.
LEAST_KNOWN = 0.5
# Edge of a patch where the viewer names none: UGA's 1024 pixels of 1 µm.
DEFAULT_UM = 1024.0
# On a slide that is small, a patch is at most this share of its shorter edge, and at least so many pixels.
LARGEST_SHARE, LEAST_PX = 0.25, 256
# Predicted structures below this are taken for specks: 100 µm square, or that share of a patch where patches are small.
LARGEST_SPECK_MM2, SPECK_SHARE = 0.01, 0.02


@dataclass(frozen=True, eq=False)
class PatchTable:
    """Candidates of one slide at one size of patch, side by side; NaN where nothing is known yet.

    Attributes:
        slide: its id.
        size_px: width and height of a patch, in level-0 pixels.
        xs: left edges of the grid's columns; ys: upper edges of its rows.
        rows: `(candidate,)` place of each candidate in `ys`; columns: in `xs`. Only places with tissue are candidates.
        classes: foreground classes.
        tissue: `(candidate,)` share of the patch, in [0, 1].
        doubt: `(candidate,)` mean doubt of its tissue, in nat, by the measure that is asked by (`SlideMaps.asked_by`).
        class_doubt: `(candidate, class)` the same of doubt times the class's probability (ClaSP PE).
        foreground_mm2: `(candidate, class)` predicted area.
        is_coarse: the slide had no more than a first look.
        speck_mm2: predicted area of a class that does not count as a structure yet.
        extras: what single strategies need beside, by strategy.
        parts: `(candidate,)` by kind of doubt, its mean over the patch's tissue; empty where nobody tells kinds apart.
    """

    slide: str
    size_px: tuple[int, int]
    xs: np.ndarray
    ys: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    classes: tuple[str, ...]
    tissue: np.ndarray
    doubt: np.ndarray
    class_doubt: np.ndarray
    foreground_mm2: np.ndarray
    is_coarse: bool
    speck_mm2: float = LARGEST_SPECK_MM2
    extras: dict[str, Any] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def region(self, candidate: int) -> Region:
        """Where a candidate lies."""
        return Region(
            int(self.xs[self.columns[candidate]]), int(self.ys[self.rows[candidate]]), *self.size_px
        )

    def candidate(self, region: Region) -> int | None:
        """Which candidate lies exactly there; None where none does."""
        if (region.width, region.height) != self.size_px:
            return None
        found = np.flatnonzero((self.xs[self.columns] == region.x) & (self.ys[self.rows] == region.y))
        return int(found[0]) if len(found) else None

    def free(self, occupied: Iterable[Region]) -> np.ndarray:
        """Candidates that share no pixel with any of the regions, `(candidate,)` bool."""
        width, height = self.size_px
        grid = np.ones((len(self.ys), len(self.xs)), dtype=bool)
        for taken in occupied:
            top, bottom = _touching(self.ys, height, taken.y, taken.bottom)
            left, right = _touching(self.xs, width, taken.x, taken.right)
            grid[top:bottom, left:right] = False
        return grid[self.rows, self.columns]

    def shows_foreground(self, region: Region) -> bool:
        """Whether the champion predicts a structure in a candidate that lies in or about the region."""
        near = ~self.free([region])
        return bool((self.foreground_mm2[near] > self.speck_mm2).any())


def patch_table(slide: str, maps: SlideMaps, patch_px: tuple[int, int]) -> PatchTable:
    """All patches of a slide with tissue, a quarter of a patch apart, and what the champion says of each.

    The means are over tissue that was looked at; a patch of which less than half was looked at is not scored.
    """
    size = patch_within(maps.slide_size_px, patch_px)
    xs, ys = (_starts(whole, edge) for whole, edge in zip(maps.slide_size_px, size, strict=True))
    boxes = Boxes.of(maps, xs, ys, size)
    tissue_cells, areas = boxes.sums(maps.tissue), boxes.areas
    rows, columns = np.nonzero(tissue_cells >= LEAST_TISSUE * areas)

    def at(grid: np.ndarray) -> np.ndarray:
        return grid[rows, columns]

    looked = maps.known & maps.tissue
    seen, tissue, area = at(boxes.sums(looked)), at(tissue_cells), at(areas)
    is_known = seen >= LEAST_KNOWN * tissue
    over = np.maximum(seen, LEAST_TISSUE * area)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = at(boxes.sums(np.where(looked, values, 0)))
        return np.where(is_known, sums / over, np.nan).astype(np.float32)

    classes = tuple(maps.classes[1:])
    predicted = maps.probability.argmax(axis=0) if classes else np.zeros(looked.shape, dtype=int)
    cell_mm2 = (maps.cell.um / 1000) ** 2
    mm2 = cell_mm2 * tissue
    return PatchTable(
        slide=slide,
        size_px=size,
        xs=xs,
        ys=ys,
        rows=rows,
        columns=columns,
        classes=classes,
        tissue=(tissue / area).astype(np.float32),
        doubt=mean(maps.maps[maps.asked_by]) if classes else np.full(len(rows), np.nan, np.float32),
        class_doubt=_side_by_side([mean(doubt) for doubt in maps.class_doubt[: len(classes)]], len(rows)),
        foreground_mm2=_side_by_side(
            [mean(predicted == column + 1) * mm2 for column in range(len(classes))], len(rows)
        ),
        is_coarse=maps.is_coarse,
        parts={name: mean(maps.maps[name]) for name in OF_ONE_NETWORK if name in maps.maps},
        speck_mm2=min(LARGEST_SPECK_MM2, SPECK_SHARE * cell_mm2 * float(areas.max())),
    )


def patch_within(slide_px: tuple[int, int], patch_px: tuple[int, int]) -> tuple[int, int]:
    """The patch's width and height; along an axis where it is larger than the slide, the slide's.

    Raises:
        BadInputError: the patch is empty.
    """
    if min(patch_px) < 1:
        raise BadInputError(
            f"a patch of {patch_px[0]} x {patch_px[1]} pixels is empty; viewers send its width and height in pixels "
            "of the slide's finest level"
        )
    return min(int(patch_px[0]), slide_px[0]), min(int(patch_px[1]), slide_px[1])


def default_patch_px(slide_px: tuple[int, int], pixel_size: PixelSize) -> tuple[int, int]:
    """1024 µm square, on a small slide a quarter of its shorter edge."""
    shorter = min(slide_px)
    edge = min(
        round(PixelSize(DEFAULT_UM) / pixel_size), max(round(LARGEST_SHARE * shorter), LEAST_PX), shorter
    )
    return edge, edge


def without_overlap(table: PatchTable, scores: np.ndarray, count: int) -> list[int]:
    """The highest candidates of which no two share a pixel: greedy non-maximum suppression.

    Args:
        scores: `(candidate,)`; NaN for those that do not stand to choose.
        count: so many at most.
    """
    chosen: list[int] = []
    left = np.where(np.isnan(scores), -np.inf, scores)
    while len(chosen) < count and len(left) and np.isfinite(left.max()):
        chosen.append(int(left.argmax()))
        left = np.where(table.free([table.region(chosen[-1])]), left, -np.inf)
    return chosen


def overlapping(region: Region, others: Sequence[Region]) -> bool:
    """Whether it shares a pixel with any of them."""
    return any(region.overlaps(other) for other in others)


@dataclass(frozen=True, eq=False)
class PatchView:
    """What a strategy sees.

    Attributes:
        tables: candidates of each slide.
        free: `(candidate,)` for each slide: may be served now.
        within: for each slide: it and its centre have not had more than their share.
        occupied: of each slide by id, what is served, annotated or skipped.
        asked: questions so far.
        seen_foreground: one of them showed a structure.
        progress: how far the labelling has come, 0 at its start, 1 at its end.
        batch: picks that are made before the model changes.
    """

    tables: tuple[PatchTable, ...]
    free: tuple[np.ndarray, ...]
    within: tuple[bool, ...]
    occupied: Mapping[str, Sequence[Region]] = field(default_factory=dict)
    asked: int = 0
    seen_foreground: bool = False
    progress: float = 0.0
    batch: int = 10

    def __len__(self) -> int:
        return sum(int(free.sum()) for free in self.free)

    @property
    def classes(self) -> tuple[str, ...]:
        """Foreground classes."""
        return self.tables[0].classes if self.tables else ()

    def side_by_side(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """One array over the candidates of all slides."""
        return np.concatenate(list(columns))

    def all_free(self) -> np.ndarray:
        """`(candidate,)` bool over all slides."""
        return self.side_by_side(self.free)

    def all_within(self) -> np.ndarray:
        """Free candidates of slides that have not had more than their share, `(candidate,)` bool."""
        return self.side_by_side([free & within for free, within in zip(self.free, self.within, strict=True)])

    def locate(self, index: int) -> tuple[PatchTable, int]:
        """Slide and candidate at a place in the arrays over all slides."""
        for table in self.tables:
            if index < len(table):
                return table, index
            index -= len(table)
        raise IndexError(index)


def _starts(whole: int, edge: int) -> np.ndarray:
    """First pixels of patches along an axis; the last one ends where the slide does."""
    count = math.floor((whole - edge) * STEPS_PER_PATCH / edge) + 1
    starts = np.round(np.arange(count) * (edge / STEPS_PER_PATCH)).astype(np.int64)
    return np.unique(np.append(np.minimum(starts, whole - edge), whole - edge))


def _touching(starts: np.ndarray, edge: int, first: int, behind: int) -> tuple[int, int]:
    """Which patches along an axis share a pixel with those from `first` up to `behind`."""
    return int(np.searchsorted(starts, first - edge, side="right")), int(
        np.searchsorted(starts, behind, side="left")
    )


def _side_by_side(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0), np.float32)
