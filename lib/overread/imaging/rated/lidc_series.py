"""CT series of LIDC-IDRI: one folder of DICOM files, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset

from overread.domain import BadInputError

SUFFIX = ".dcm"
# A scan has hundreds of slices: of each no more is parsed than says where it lies.
PLACE_TAGS = ("SeriesInstanceUID", "SOPInstanceUID", "ImagePositionPatient")


@dataclass(frozen=True)
class SeriesHeader:
    """What one slice says about its series.

    Attributes:
        folder: of the files.
        uid, patient: of the series.
        shape: pixels along x and y.
        spacing_mm: between pixels along x and y.
    """

    folder: Path
    uid: str
    patient: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class Slice:
    """One file of a series; `z_mm` is its place along the patient."""

    path: Path
    sop_uid: str
    z_mm: float


def dicom_files(folder: Path) -> list[Path]:
    """DICOM files that lie in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and path.is_file())


def read_series_header(path: Path) -> SeriesHeader | None:
    """What a file says about the CT that it belongs to; None for another modality.

    Raises:
        BadInputError: no DICOM file, or it does not say enough.
    """
    header = _read(path, pixels=False)
    if header.get("Modality") != "CT":
        return None
    try:
        along_y, along_x = (float(spacing) for spacing in header.PixelSpacing)
        return SeriesHeader(
            folder=path.parent,
            uid=str(header.SeriesInstanceUID),
            patient=str(header.PatientID),
            shape=(int(header.Columns), int(header.Rows)),
            spacing_mm=(along_x, along_y),
        )
    except (AttributeError, ValueError, TypeError) as error:
        raise BadInputError(f"{path} does not say where its pixels lie: {error}") from error


@lru_cache(maxsize=8)
def read_slices(folder: Path, series_uid: str) -> tuple[Slice, ...]:
    """The slices of a series, from foot to head.

    Raises:
        BadInputError: a file that is no DICOM, or does not say where it lies.
    """
    slices = []
    for path in dicom_files(folder):
        header = _read(path, pixels=False, only=PLACE_TAGS)
        if header.get("SeriesInstanceUID") != series_uid:
            continue
        try:
            z_mm = float(header.ImagePositionPatient[2])
        except (AttributeError, TypeError, IndexError, ValueError) as error:
            raise BadInputError(f"{path} does not say where it lies (ImagePositionPatient)") from error
        slices.append(Slice(path, str(header.SOPInstanceUID), z_mm))
    return tuple(sorted(slices, key=lambda each: each.z_mm))


def read_hounsfield(paths: Sequence[Path]) -> np.ndarray:
    """Read slices in Hounsfield units, float32 `(slice, x, y)`; padding stays what it is, such as -2000 or -3024.

    Raises:
        BadInputError: pixels that cannot be read, or slices of different sizes.
    """
    stack = []
    for path in paths:
        header = _read(path, pixels=True)
        try:
            pixels = header.pixel_array.astype(np.float32)
        except Exception as error:  # each codec raises errors of its own
            raise BadInputError(f"{path} cannot be read: {error}") from error
        hounsfield = pixels * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
        stack.append(hounsfield.astype(np.float32).T)
        if stack[-1].shape != stack[0].shape:
            raise BadInputError(f"{path} is {stack[-1].shape}, the first slice {stack[0].shape}")
    return np.stack(stack)


def _read(path: Path, *, pixels: bool, only: Sequence[str] | None = None) -> FileDataset:
    try:
        tags = None if only is None else list(only)
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
    except Exception as error:  # pydicom raises many kinds on a broken file
        raise BadInputError(f"{path} is no DICOM file: {error}") from error
