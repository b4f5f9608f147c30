"""Scores of patches that single strategies ask for, beside the doubt that every table holds."""

from __future__ import annotations

import numpy as np

from overread.ensemble.slides.maps import SlideMaps
from overread.queue.patches.candidates import STEPS_PER_PATCH, PatchTable, default_patch_px, patch_table
from overread.queue.patches.sums import Boxes

UGA_MEASURE = "member_cross_entropy"
# UGA stores its map in bytes: 4 nat and more become 255.
UGA_HIGHEST_NAT, BYTE = 4.0, 255
# "High" is above this share of the patch's own maximum.
UGA_HIGH = 0.8
UGA_COUNT_WEIGHT = 100.0
# Where no tumour is predicted, UGA skips patches of which 30 % or more are white.
UGA_LEAST_TISSUE_WITHOUT_FOREGROUND = 0.7


def pairwise_dice(table: PatchTable, maps: SlideMaps) -> np.ndarray:
    """1 - mean Dice of pairs of members in each patch, over classes that some member draws there, `(candidate,)`.

    Dice with one cell added to overlap and mean size, so that specks count little; a pair in which neither draws the
    class agrees. 0 where all members draw the same or nothing, in [0, 1]; NaN where too little was looked at.
    """
    boxes = Boxes.of(maps, table.xs, table.ys, table.size_px)

    def sums(values: np.ndarray) -> np.ndarray:
        return boxes.sums(np.where(maps.known, values, 0))[table.rows, table.columns]

    total, drawn_classes = np.zeros(len(table)), np.zeros(len(table))
    for column in range(len(table.classes)):
        size = [sums(member[column]) for member in maps.sizes]
        is_drawn = np.sum(size, axis=0) > 0
        dice = [
            (2 * sums(overlap[column]) + 1) / (size[k] + size[m] + 1)
            for (k, m), overlap in zip(maps.pairs, maps.overlaps, strict=True)
        ]
        if dice:
            # Cells hold shares in half precision: two members that draw the same may differ in the last digit.
            total += np.where(is_drawn, np.clip(1 - np.mean(dice, axis=0), 0, 1), 0)
        drawn_classes += is_drawn
    return np.where(np.isfinite(table.doubt), total / np.maximum(drawn_classes, 1), np.nan)


def sureness(table: PatchTable, maps: SlideMaps) -> np.ndarray:
    """Mean probability of each class in a patch's tissue, `(candidate, class)`; NaN where too little was looked at."""
    boxes = Boxes.of(maps, table.xs, table.ys, table.size_px)
    looked = maps.known & maps.tissue
    cells = np.maximum(boxes.sums(looked)[table.rows, table.columns], 1)
    sums = [
        boxes.sums(np.where(looked, maps.probability[number], 0))[table.rows, table.columns]
        for number in range(1, len(table.classes) + 1)
    ]
    means = np.stack(sums, axis=1) / cells[:, None] if sums else np.zeros((len(table), 0))
    return np.where(np.isfinite(table.doubt)[:, None], means, np.nan)


def uga(table: PatchTable, maps: SlideMaps) -> np.ndarray:
    """The score by which UGA chose patches, `(candidate,)`, in the paper's bytes; NaN for those it does not look at.

    From the released code: `100 * n_high + sum`, of the uncertainty in bytes (4 nat are 255), where `n_high` counts
    what is above 0.8 of the patch's own maximum. Patches do not overlap; those without any uncertainty are skipped, and
    those in which no structure is predicted if 30 % or more are no tissue. Counts are of cells instead of pixels,
    which leaves the order as it is.

    A flaw to know: `n_high` is relative, so a patch of *low and even* uncertainty has more of it than one with a
    sharp, certain error, and wins.
    """
    on_grid = (table.rows % STEPS_PER_PATCH == 0) & (table.columns % STEPS_PER_PATCH == 0)
    # The last place of an axis may be one that was moved back to the slide's end.
    for places, starts, edge in (
        (table.columns, table.xs, table.size_px[0]),
        (table.rows, table.ys, table.size_px[1]),
    ):
        on_grid &= starts[places] == places // STEPS_PER_PATCH * edge
    every_row, every_column = (np.arange(0, len(starts), STEPS_PER_PATCH) for starts in (table.ys, table.xs))
    boxes = Boxes.of(maps, table.xs[every_column], table.ys[every_row], table.size_px)
    in_bytes = _in_bytes(np.where(maps.known & maps.tissue, maps.maps[UGA_MEASURE], 0))
    score = np.full((len(every_row), len(every_column)), np.nan)
    for row, (top, bottom) in enumerate(zip(boxes.tops, boxes.bottoms, strict=True)):
        for column, (left, right) in enumerate(zip(boxes.lefts, boxes.rights, strict=True)):
            score[row, column] = uga_score(in_bytes[top:bottom, left:right])
    found = score[table.rows // STEPS_PER_PATCH, table.columns // STEPS_PER_PATCH]
    shows_structure = (table.foreground_mm2 > 0).any(axis=1)
    looks = on_grid & (found > 0) & (shows_structure | (table.tissue > UGA_LEAST_TISSUE_WITHOUT_FOREGROUND))
    return np.where(looks & np.isfinite(table.doubt), found, np.nan)


def uga_score(in_bytes: np.ndarray) -> float:
    """`100 * n_high + sum` of one patch of uncertainty in bytes; 0 where there is none."""
    highest = int(in_bytes.max())
    if highest == 0:
        return 0.0
    return UGA_COUNT_WEIGHT * int((in_bytes > UGA_HIGH * highest).sum()) + float(in_bytes.sum(dtype=np.int64))


def _in_bytes(uncertainty_nat: np.ndarray) -> np.ndarray:
    scaled = np.clip(uncertainty_nat.astype(np.float32), 0, UGA_HIGHEST_NAT) * (BYTE / UGA_HIGHEST_NAT)
    return scaled.astype(np.uint8)


def slide_doubt(slide: str, maps: SlideMaps) -> tuple[float | None, dict[str, float], dict[str, float]]:
    """What is kept of a slide in numbers, for patches of the default size.

    Returns:
        The doubt of its most doubtful patch, in nat, None where nothing was scored; the same for each class; the
        predicted area of each class in mm².
    """
    table = patch_table(slide, maps, default_patch_px(maps.slide_size_px, maps.slide_pixel_size))
    scored = np.isfinite(table.doubt)
    doubt = float(table.doubt[scored].max()) if scored.any() else None
    class_doubt = {
        name: float(table.class_doubt[scored, column].max()) if scored.any() else 0.0
        for column, name in enumerate(table.classes)
    }
    predicted = np.where(maps.known & maps.tissue, maps.probability.argmax(axis=0), 0)
    cells = np.bincount(predicted.ravel(), minlength=len(maps.classes))
    cell_mm2 = (maps.cell.um / 1000) ** 2
    return (
        doubt,
        class_doubt,
        {name: float(cells[n] * cell_mm2) for n, name in enumerate(table.classes, start=1)},
    )


def disagreement(maps: SlideMaps) -> float:
    """1 - mean Dice of pairs of members over the whole slide and the classes that any of them draws; 0 where none."""
    sizes, overlaps = (
        np.where(maps.known, values, 0).sum(axis=(-2, -1), dtype=np.float64)
        for values in (maps.sizes, maps.overlaps)
    )
    pairs = np.array(maps.pairs, dtype=int).reshape(-1, 2)
    both = sizes[pairs[:, 0]] + sizes[pairs[:, 1]]
    # A pair in which neither draws the class agrees.
    dice = np.where(both > 0, 2 * overlaps / np.maximum(both, 1e-9), 1.0)[:, sizes.sum(axis=0) > 0]
    return float(np.clip(1 - dice.mean(), 0, 1)) if dice.size else 0.0
