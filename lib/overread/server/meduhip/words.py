"""Where a candidate differs from what is shown, in a radiologist's words."""

from __future__ import annotations

import numpy as np

from overread.meduhip.candidates import in_words

# Beyond these shares of the structure's box lies its lower, left or back end, and its upper, right or front end.
LOW_END, HIGH_END = 1 / 3, 2 / 3
# A difference that reaches over this share of the box along every axis lies all round.
ALL_ROUND = 0.75
# Volumes below this many mL (or pixels) are not told, as in `in_words`.
LEAST_TOLD = 0.005

# Axes of volumes are R, A, S; those of pictures run to the right and down. In the order in which they are told.
ENDS: dict[int, tuple[tuple[int, str, str], ...]] = {
    3: ((2, "lower", "upper"), (0, "left", "right"), (1, "back", "front")),
    2: ((1, "upper", "lower"), (0, "left", "right")),
}
POLES = ("upper", "lower")


def where(part: np.ndarray, structure: np.ndarray) -> str:
    """Where a part lies in a structure, such as `the upper pole` or `the lower left part`.

    Args:
        part: boolean, along R, A and S (left and right are the patient's), or x and y of a picture. It need not lie
            inside the structure.
        structure: the same; where it is empty, the part is compared with itself.
    """
    if not structure.any():
        structure = part
    words = []
    spans = []
    for axis, low_word, high_word in ENDS[part.ndim]:
        low, high, _ = _along(structure, axis)
        part_low, part_high, centre = _along(part, axis)
        extent = max(high - low, 1)
        spans.append((part_high - part_low + 1) / (high - low + 1))
        share = (centre - low) / extent if high > low else 0.5
        if share < LOW_END:
            words.append(low_word)
        elif share > HIGH_END:
            words.append(high_word)
    if not words:
        return "all round" if min(spans) >= ALL_ROUND else "the middle"
    if len(words) == 1 and words[0] in POLES:
        return f"the {words[0]} pole"
    return f"the {' '.join(words)} part"


def difference_in_words(
    added: np.ndarray, removed: np.ndarray, structure: np.ndarray, unit_volume: float, unit: str
) -> str:
    """How a candidate differs from what is shown: `+2.1 mL, adds the upper pole`.

    Args:
        added, removed, structure: boolean, as in `where`; `structure` is what is shown.
        unit_volume: of one voxel, in `unit`.
    """
    volumes = (int(added.sum()) * unit_volume, int(removed.sum()) * unit_volume)
    told = [in_words(*volumes, unit=unit)]
    for verb, part, volume in (("adds", added, volumes[0]), ("removes", removed, volumes[1])):
        if volume >= LEAST_TOLD:
            place = where(part, structure)
            told.append(f"{verb} {'voxels ' if place == 'all round' else ''}{place}")
    return ", ".join(told)


def _along(mask: np.ndarray, axis: int) -> tuple[int, int, float]:
    """First and last index of a mask along an axis, and its centre there."""
    counts = mask.sum(axis=tuple(other for other in range(mask.ndim) if other != axis))
    filled = np.flatnonzero(counts)
    return int(filled[0]), int(filled[-1]), float((counts * np.arange(len(counts))).sum() / counts.sum())
