"""How doubt is drawn into a label map, and what `high` means in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from overread.domain import BadInputError
from overread.uncertainty.calibration import DOUBT_HIGH, DOUBT_MODERATE, DoubtBands

# Overlays come first in the viewer's list: where segments overlap, 3D Slicer exports the later one.
DOUBT_NAMES = (DOUBT_HIGH, DOUBT_MODERATE)

DoubtMode = Literal["bands inside the labels", "bands only", "off"]
BANDS_INSIDE: DoubtMode = "bands inside the labels"
BANDS_ONLY: DoubtMode = "bands only"
BANDS_OFF: DoubtMode = "off"
DOUBT_MODES: tuple[DoubtMode, ...] = (BANDS_INSIDE, BANDS_ONLY, BANDS_OFF)

# Voxel values are 8 bits wide for every viewer; two of them are the bands'.
MOST_CLASSES = 254


@dataclass(frozen=True, eq=False)
class Drawing:
    """A label map as a viewer gets it.

    Attributes:
        values: `(*space)` uint8; 0 is background.
        names: label name to voxel value, 1..N without gaps. 3D Slicer gives the k-th name to value k, and OHIF
            looks the value up.
    """

    values: np.ndarray
    names: dict[str, int]

    def as_listed(self, listed: Mapping[str, int]) -> Drawing:
        """The same with the values that the model lists, for a client that gets no names and looks them up there."""
        table = np.zeros(256, np.uint8)
        for name, value in self.names.items():
            table[value] = listed.get(name, 0)
        return Drawing(table[self.values], dict(listed))


def label_values(classes: tuple[str, ...], bands: bool) -> dict[str, int]:
    """Label names to voxel values: the classes keep their index, the bands follow."""
    if len(classes) > MOST_CLASSES:
        raise BadInputError(
            f"{len(classes)} classes do not fit an 8-bit label map with two doubt bands; at most {MOST_CLASSES} do"
        )
    values = {name: index for index, name in enumerate(classes) if index > 0}
    if bands:
        values |= {DOUBT_MODERATE: len(classes), DOUBT_HIGH: len(classes) + 1}
    return values


def draw(
    labels: np.ndarray, bands: np.ndarray | None, classes: tuple[str, ...], mode: DoubtMode, listed: bool
) -> Drawing:
    """Put the bands into the proposal.

    Args:
        labels: class indices `(*space)`.
        bands: 0 none, 1 moderate, 2 high; None where the measure has no calibrated bands.
        classes: names, the background first.
        mode: `bands inside the labels` replaces the classes inside the bands; `bands only` holds nothing else,
            so that 3D Slicer lays it over the segments that it has; `off` holds the classes alone.
        listed: whether the model lists band names. With `off` they are then named without a voxel, by which
            3D Slicer clears the bands of an earlier, now outdated proposal.
    """
    if mode == BANDS_ONLY:
        values = np.zeros_like(labels) if bands is None else bands.astype(np.uint8)
        return Drawing(values.astype(np.uint8), {DOUBT_MODERATE: 1, DOUBT_HIGH: 2})
    names = label_values(classes, listed)
    values = labels.astype(np.uint8, copy=True)
    if mode == BANDS_INSIDE and bands is not None:
        values[bands == 1] = names[DOUBT_MODERATE]
        values[bands == 2] = names[DOUBT_HIGH]
    return Drawing(values, names)


def in_words(measure: str, bands: DoubtBands | None) -> str:
    """What `doubt: high` means here, with the numbers that validation cases gave."""
    if bands is None:
        return (
            f"No doubt bands are shown: {measure} was not calibrated on validation cases for this model. "
            "The float map can still be had."
        )
    return (
        f"`{DOUBT_HIGH}` is {measure} of at least {bands.high:.4g}: on {bands.cases} validation cases it held "
        f"{bands.high_error_share:.0%} of the wrong voxels in {bands.high_voxel_share:.1%} of all voxels; "
        f"with `{DOUBT_MODERATE}` (at least {bands.moderate:.4g}) it was {bands.moderate_error_share:.0%} "
        f"in {bands.moderate_voxel_share:.1%}."
    )


def band_facts(measure: str, bands: DoubtBands | None) -> dict[str, Any]:
    """The same for a program."""
    facts: dict[str, Any] = {"measure": measure, "calibrated": bands is not None}
    facts["meaning"] = in_words(measure, bands)
    if bands is not None:
        facts["thresholds"] = {"high": bands.high, "moderate": bands.moderate}
        facts["validation"] = {
            key: value for key, value in asdict(bands).items() if key.endswith("_share") or key == "cases"
        }
    return facts
