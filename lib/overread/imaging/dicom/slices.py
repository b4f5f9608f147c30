"""What each slice of a series says about its place: classic files, and the frames of enhanced ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from overread.domain import BadInputError

# Detectors of projection X-ray say what lies between their elements where PixelSpacing is not known.
SPACING_KEYWORDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice, as far as its file says it; what is missing is None.

    Attributes:
        instance: header of the file, without pixels.
        frame: of an enhanced file, from 0; 0 in a classic one.
        position: of the first pixel's middle, mm, LPS, `(3,)`.
        orientation: unit vectors along a row and along a column, `(2, 3)`.
        spacing_mm: between rows and between columns.
        slope, intercept: from stored values to the modality's unit.
        pixels: stored values `(row, column)`; of colour images `(row, column, 3)`.
    """

    instance: Dataset
    frame: int
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing_mm: tuple[float, float] | None
    slope: float
    intercept: float
    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


def slices_of(instance: Dataset, pixels: np.ndarray) -> Iterator[Slice]:
    """The slices of one DICOM file.

    Args:
        instance: its header.
        pixels: stored values, `(row, column)` or `(frame, row, column)`; colour in a last axis.

    Raises:
        BadInputError: several frames without a place each, as films and ultrasound loops are.
    """
    frames = int(instance.get("NumberOfFrames") or 1)
    groups = instance.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and not groups:
        raise BadInputError(f"it is a film of {frames} frames without a place each, no volume")
    if not groups:
        yield Slice(
            instance,
            0,
            _vector(instance.get("ImagePositionPatient"), 3),
            _orientation(instance.get("ImageOrientationPatient")),
            _spacing(instance),
            _number(instance.get("RescaleSlope"), 1.0),
            _number(instance.get("RescaleIntercept"), 0.0),
            pixels,
        )
        return
    stack = pixels if frames > 1 else pixels[None]
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for frame, (group, values) in enumerate(zip(groups, stack, strict=True)):
        transform = _macro(group, shared, "PixelValueTransformationSequence")
        yield Slice(
            instance,
            frame,
            _vector(_macro(group, shared, "PlanePositionSequence").get("ImagePositionPatient"), 3),
            _orientation(_macro(group, shared, "PlaneOrientationSequence").get("ImageOrientationPatient")),
            _spacing(_macro(group, shared, "PixelMeasuresSequence")),
            _number(transform.get("RescaleSlope"), 1.0),
            _number(transform.get("RescaleIntercept"), 0.0),
            values,
        )


def _macro(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group's macro: the frame's own, else the one that all share, else an empty one."""
    for group in (frame, shared):
        if group.get(keyword):
            return group[keyword].value[0]
    return Dataset()


def _vector(value: Any, length: int) -> np.ndarray | None:
    try:
        numbers = np.array([float(each) for each in value])
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (length,) and np.isfinite(numbers).all() else None


def _orientation(value: Any) -> np.ndarray | None:
    numbers = _vector(value, 6)
    if numbers is None:
        return None
    pair = numbers.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if (np.abs(lengths - 1) > 1e-2).any() or abs(pair[0] @ pair[1]) > 1e-2:
        return None
    return pair / lengths[:, None]


def _spacing(source: Dataset) -> tuple[float, float] | None:
    for keyword in SPACING_KEYWORDS:
        pair = _vector(source.get(keyword), 2)
        if pair is not None and (pair > 0).all():
            return float(pair[0]), float(pair[1])
    return None


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default
