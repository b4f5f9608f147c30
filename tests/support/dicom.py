"""DICOM series made by computation: any geometry, modality and transfer syntax, with tags left out on wish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ENCODERS: dict[UID, Callable[[np.ndarray], bytes]] = {
    JPEGLosslessSV1: lambda frame: imagecodecs.ljpeg_encode(frame, bitspersample=16),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda frame: imagecodecs.jpeg2k_encode(
        frame, level=0, codecformat="j2k", reversible=True
    ),
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slices(
    voxels: np.ndarray,
    *,
    modality: str = "CT",
    patient: str = "anna",
    study: str | None = None,
    series: str | None = None,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-20.0, -30.0, 10.0),
    spacing_mm: tuple[float, float] = (0.9, 0.8),
    distance_mm: float = 3.0,
    offsets_mm: Sequence[float] | None = None,
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
    without: Sequence[str] = (),
) -> list[FileDataset]:
    """Classic files of a series, one a slice, in the order of the slices along their normal.

    Args:
        voxels: `(i, j, k)` whole numbers; stored values of 16 bits, signed where one is negative.
        spacing_mm: between rows, between columns.
        offsets_mm: place of each slice along the normal; by default `distance_mm` apart.
        shift_mm: of each slice against the one before, as a tilted gantry leaves it.
        without: keywords of elements that are left out.
    """
    study, series = study or generate_uid(), series or generate_uid()
    frame_of_reference = generate_uid()
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    count = voxels.shape[2]
    offsets = np.arange(count) * distance_mm if offsets_mm is None else np.array(offsets_mm)
    signed = bool(voxels.min() < 0)
    made = []
    for k in range(count):
        instance = _new(CLASSES[modality], modality, patient, study, series)
        instance.FrameOfReferenceUID = frame_of_reference
        place = np.array(origin) + normal * offsets[k] + np.array(shift_mm) * k
        instance.ImagePositionPatient = [f"{value:.8g}" for value in place]
        instance.ImageOrientationPatient = [f"{value:.8g}" for value in orientation]
        instance.PixelSpacing = [str(value) for value in spacing_mm]
        instance.SliceThickness = str(distance_mm)
        instance.SliceLocation = f"{float(place @ normal):.8g}"
        instance.InstanceNumber = k + 1
        if modality == "CT":
            instance.RescaleSlope, instance.RescaleIntercept = "1", "0"
        _put_pixels(instance, voxels[:, :, k].T, signed)
        for keyword in without:
            if keyword in instance:
                delattr(instance, keyword)
        made.append(instance)
    return made


def enhanced(voxels: np.ndarray, *, patient: str = "anna", distance_mm: float = 3.0) -> FileDataset:
    """An enhanced MR of several frames, stored from the last slice to the first."""
    instance = _new(ENHANCED_MR, "MR", patient, generate_uid(), generate_uid())
    instance.FrameOfReferenceUID = generate_uid()
    count = voxels.shape[2]
    frames = voxels.transpose(2, 1, 0)[::-1]
    _put_pixels(instance, frames, bool(voxels.min() < 0))
    instance.NumberOfFrames = count
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [0.9, 0.8], distance_mm
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    shared.PixelMeasuresSequence = DicomSequence([measures])
    instance.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for k in reversed(range(count)):
        group, position, transform = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-20.0, -30.0, 10.0 + distance_mm * k]
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = "2", "1", "US"
        group.PlanePositionSequence = DicomSequence([position])
        group.PixelValueTransformationSequence = DicomSequence([transform])
        groups.append(group)
    instance.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    return instance


def compressed(instance: FileDataset, syntax: UID) -> FileDataset:
    """The same file in a compressed transfer syntax, without loss."""
    pixels = instance.pixel_array
    if syntax == RLELossless:
        instance.compress(RLELossless, pixels)
        return instance
    # JPEG knows no sign; the bytes of signed values are kept.
    frame = np.ascontiguousarray(pixels).view(np.uint16)
    instance.PixelData = encapsulate([ENCODERS[syntax](frame)])
    instance["PixelData"].is_undefined_length = True
    instance["PixelData"].VR = "OB"
    instance.file_meta.TransferSyntaxUID = syntax
    return instance


def written(instances: Sequence[Dataset], folder: Path) -> list[Path]:
    """The files, one a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.dcm" for number in range(len(instances))]
    for path, instance in zip(paths, instances, strict=True):
        pydicom.dcmwrite(path, instance, write_like_original=False)
    return paths


def again(instances: Sequence[Dataset], folder: Path) -> list[Dataset]:
    """What is read back of the files, as a PACS would hand it out."""
    return [pydicom.dcmread(path) for path in written(instances, folder)]


def _new(kind: str, modality: str, patient: str, study: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    instance = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    instance.is_little_endian, instance.is_implicit_VR = True, False
    instance.SOPClassUID, instance.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    instance.SpecificCharacterSet = "ISO_IR 192"
    instance.StudyInstanceUID, instance.SeriesInstanceUID = study, series
    instance.Modality, instance.PatientID, instance.PatientName = modality, patient, f"{patient}^"
    instance.PatientBirthDate, instance.PatientSex = "19700101", "O"
    instance.StudyDate, instance.StudyTime, instance.StudyID = "20260101", "101500", "1"
    instance.AccessionNumber, instance.ReferringPhysicianName = "", ""
    instance.SeriesNumber, instance.SeriesDescription = 1, f"{modality} of {patient}"
    return instance


def _put_pixels(instance: FileDataset, pixels: np.ndarray, signed: bool) -> None:
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.Rows, instance.Columns = pixels.shape[-2:]
    instance.BitsAllocated = instance.BitsStored = 16
    instance.HighBit = 15
    instance.PixelRepresentation = int(signed)
    instance.PixelData = np.ascontiguousarray(pixels.astype("<i2" if signed else "<u2")).tobytes()
