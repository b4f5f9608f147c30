"""Maps of slides with known fields."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from overread.domain import PixelSize
from overread.ensemble.slides.maps import CELL, KEPT_MEASURES, SlideMaps

CLASSES = ("background", "Tumor")
# Eight pixels to a cell: a patch of 64 pixels has 8 x 8 cells.
PIXEL = PixelSize(1.0)
CELL_PX = 8


def some_maps(
    doubt: np.ndarray,
    *,
    tissue: np.ndarray | None = None,
    known: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    class_doubt: np.ndarray | None = None,
    uga: np.ndarray | None = None,
    drawn: Sequence[np.ndarray] | None = None,
    is_coarse: bool = False,
    classes: tuple[str, ...] = CLASSES,
) -> SlideMaps:
    """Maps with this predictive entropy, tissue throughout, all looked at, nothing predicted, unless given.

    Args:
        predicted: class of each cell.
        drawn: what each member calls foreground, `(rows, columns)`; of the first class.
    """
    shape, foreground = doubt.shape, len(classes) - 1
    predicted = np.zeros(shape, int) if predicted is None else predicted
    members = [predicted == 1] * 2 if drawn is None else list(drawn)
    pairs = tuple(combinations(range(len(members)), 2))
    sizes = np.zeros((len(members), foreground, *shape), np.float16)
    overlaps = np.zeros((len(pairs), foreground, *shape), np.float16)
    if foreground:
        sizes[:, 0] = members
        for index, (one, other) in enumerate(pairs):
            overlaps[index, 0] = np.asarray(members[one]) & np.asarray(members[other])
    by_class = np.zeros((foreground, *shape)) + doubt if class_doubt is None else class_doubt
    return SlideMaps(
        slide_size_px=(shape[1] * CELL_PX, shape[0] * CELL_PX),
        slide_pixel_size=PIXEL,
        cell=CELL,
        classes=classes,
        tissue=np.ones(shape, bool) if tissue is None else tissue,
        known=np.ones(shape, bool) if known is None else known,
        is_coarse=is_coarse,
        probability=np.stack([predicted == index for index in range(len(classes))]).astype(np.float16),
        maps={name: doubt.astype(np.float16) for name in KEPT_MEASURES}
        | ({} if uga is None else {"member_cross_entropy": uga.astype(np.float16)}),
        class_doubt=by_class.astype(np.float16),
        sizes=sizes,
        overlaps=overlaps,
        pairs=pairs,
    )


def blank(rows: int, columns: int) -> np.ndarray:
    """A field of zeros."""
    return np.zeros((rows, columns), np.float32)
