"""What is laid over the classes in a label map: the regions of candidates, and the bands of doubt."""

from __future__ import annotations

from typing import Literal

import numpy as np

from overread.domain import BadInputError
from overread.server.doubt import BANDS_INSIDE, BANDS_OFF, BANDS_ONLY, DOUBT_NAMES, DoubtMode, Drawing
from overread.uncertainty.calibration import DOUBT_HIGH, DOUBT_MODERATE

CANDIDATE_LETTERS = ("A", "B", "C", "D")
CANDIDATE_NAMES = tuple(f"candidate {letter}" for letter in CANDIDATE_LETTERS)
# None of these is a class: on submit they are dropped by name, and in the viewer's list they come first.
OVERLAY_NAMES = (*DOUBT_NAMES, *CANDIDATE_NAMES)

CandidateMode = Literal["regions inside the labels", "regions only", "off"]
REGIONS_INSIDE: CandidateMode = "regions inside the labels"
REGIONS_ONLY: CandidateMode = "regions only"
REGIONS_OFF: CandidateMode = "off"
CANDIDATE_MODES: tuple[CandidateMode, ...] = (REGIONS_INSIDE, REGIONS_ONLY, REGIONS_OFF)

LARGEST_VALUE = 255


def label_values(classes: tuple[str, ...], bands: bool) -> dict[str, int]:
    """Label names to voxel values: the classes keep their index, then the candidates, then the bands.

    Raises:
        BadInputError: they do not fit 8 bits.
    """
    values = {name: index for index, name in enumerate(classes) if index > 0}
    values |= {name: len(classes) + n for n, name in enumerate(CANDIDATE_NAMES)}
    if bands:
        after = len(classes) + len(CANDIDATE_NAMES)
        values |= {DOUBT_MODERATE: after, DOUBT_HIGH: after + 1}
    if max(values.values()) > LARGEST_VALUE:
        raise BadInputError(
            f"{len(classes)} classes do not fit an 8-bit label map with candidates and doubt; at most "
            f"{LARGEST_VALUE + 1 - len(OVERLAY_NAMES)} do"
        )
    return values


def holds_classes(candidates: CandidateMode, doubt: DoubtMode) -> bool:
    """Whether an answer in these modes holds the classes at all."""
    return candidates != REGIONS_ONLY and doubt != BANDS_ONLY


def draw_turn(
    labels: np.ndarray,
    regions: np.ndarray,
    bands: np.ndarray | None,
    classes: tuple[str, ...],
    candidates: CandidateMode,
    doubt: DoubtMode,
    listed: bool,
) -> Drawing:
    """Put regions and bands into the proposal; where both lie, the region is seen.

    Args:
        labels: class indices `(*space)`.
        regions: 0, or 1 for the first candidate and so on.
        bands: 0 none, 1 moderate, 2 high; None where there are none.
        classes: names, the background first.
        candidates, doubt: `… inside the labels` replaces the classes there; `… only` holds nothing else than what
            was asked for in this way, so that 3D Slicer lays it over the segments that it has.
        listed: whether the model lists the bands. Names without a voxel clear the segments of an earlier answer.
    """
    if not holds_classes(candidates, doubt):
        shown: dict[str, int] = {}
        values = np.zeros(labels.shape, np.uint8)
        if candidates == REGIONS_ONLY:
            shown |= {name: n for n, name in enumerate(CANDIDATE_NAMES, start=1)}
        if doubt == BANDS_ONLY:
            shown |= {DOUBT_MODERATE: len(shown) + 1, DOUBT_HIGH: len(shown) + 2}
            if bands is not None:
                values[bands == 1], values[bands == 2] = shown[DOUBT_MODERATE], shown[DOUBT_HIGH]
        if candidates == REGIONS_ONLY:
            values[regions > 0] = regions[regions > 0]
        return Drawing(values, shown)
    names = label_values(classes, listed)
    values = labels.astype(np.uint8, copy=True)
    if doubt == BANDS_INSIDE and bands is not None and listed:
        values[bands == 1], values[bands == 2] = names[DOUBT_MODERATE], names[DOUBT_HIGH]
    if candidates == REGIONS_INSIDE:
        inside = regions > 0
        values[inside] = regions[inside] + (len(classes) - 1)
    return Drawing(values, names)


def inside_modes(
    candidates: CandidateMode, doubt: DoubtMode, has_bands: bool
) -> tuple[CandidateMode, DoubtMode]:
    """As which the reader saw the overlays: what had no voxel to take from the classes took none."""
    return candidates, BANDS_OFF if doubt == BANDS_INSIDE and not has_bands else doubt
