"""Small folders of cases that several people labelled, in the layouts of the published data sets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

DATA = Path(os.environ.get("OVERREAD_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
Points = Sequence[tuple[int, int]]


def shared(name: str) -> Path:
    """A folder of the data beside the checkout; the test skips where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in {DATA}; set OVERREAD_DATA to the folder that holds it")
    return folder


def disc(shape: Sequence[int], centre: Sequence[float], radius: float) -> np.ndarray:
    """A ball around a place, bool `(*space)`."""
    places = np.indices(shape).reshape(len(shape), -1)
    distance = np.linalg.norm(places - np.reshape(centre, (-1, 1)), axis=0)
    return (distance <= radius).reshape(shape)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write `(x, y)` or `(x, y, 3)`; bool becomes 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.dtype == np.bool_:
        picture = picture.astype(np.uint8) * 255
    Image.fromarray(np.swapaxes(picture, 0, 1)).save(path)


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write NIfTI; bool becomes 0 and 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels
    nib.save(nib.Nifti1Image(stored, np.eye(4) if affine is None else affine), path)


def write_slice(
    path: Path, pixels: np.ndarray, *, uid: str, series: str, patient: str, z_mm: float, **changes: object
) -> None:
    """Write one CT slice of stored values `(x, y)`, in Hounsfield units after adding -1000; None removes an element.

    Rows are 0.7 mm apart, columns 0.5 mm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.is_little_endian, file.is_implicit_VR = True, False
    elements: dict[str, object] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "SeriesInstanceUID": series,
        "PatientID": patient,
        "Modality": "CT",
        "ImagePositionPatient": [0.0, 0.0, z_mm],
        "PixelSpacing": [0.7, 0.5],
        "Columns": pixels.shape[0],
        "Rows": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": 1,
        "RescaleIntercept": -1000,
        "PixelData": pixels.T.astype("<i2").tobytes(),
    } | changes
    for name, value in elements.items():
        if value is not None:
            setattr(file, name, value)
    pydicom.dcmwrite(path, file)


def ring(x: tuple[int, int], y: tuple[int, int]) -> list[tuple[int, int]]:
    """The pixels of a rectangle's border, one after the other; first and last of either axis."""
    top = [(i, y[0]) for i in range(x[0], x[1])]
    right = [(x[1], j) for j in range(y[0], y[1])]
    bottom = [(i, y[1]) for i in range(x[1], x[0], -1)]
    left = [(x[0], j) for j in range(y[1], y[0], -1)]
    return top + right + bottom + left


def roi_xml(uid: str, z_mm: float, points: Points, inclusion: str = "TRUE") -> str:
    """One outline."""
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (
        f"<roi><imageZposition>{z_mm}</imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def lidc_xml(series: str, sessions: Sequence[Sequence[Sequence[str]]]) -> str:
    """What readers said: of each session the nodules, of each nodule the outlines."""
    text = ""
    for nodules in sessions:
        inner = "".join(
            f"<unblindedReadNodule><noduleID>{i}</noduleID>{''.join(rois)}</unblindedReadNodule>"
            for i, rois in enumerate(nodules)
        )
        text += (
            f"<readingSession><servicingRadiologistID>anon</servicingRadiologistID>{inner}</readingSession>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage uid="1.2" xmlns="http://www.nih.gov">'
        f"<ResponseHeader><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{text}</LidcReadMessage>"
    )


def write_rated(
    folder: Path, cases: Mapping[str, Mapping[str, np.ndarray]], image: np.ndarray, ending: str = ".png"
) -> Path:
    """The layout `rated`: one image for all, and the masks of each case's raters."""
    for case, masks in cases.items():
        write_picture(folder / "images" / f"{case}{ending}", image)
        for rater, mask in masks.items():
            write_picture(folder / "masks" / f"{case}_{rater}.png", mask)
    (folder / "masks").mkdir(exist_ok=True)
    return folder
