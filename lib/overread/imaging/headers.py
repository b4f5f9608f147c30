"""What a file says it is, without reading its voxels: cheap to ask, so that absurd files can be refused early."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from PIL import Image

from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.volumes import (
    ITK_SUFFIXES,
    LPS_TO_RAS,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    READABLE_SUFFIXES,
)

# Kinds of file that are a header alone.
DETACHED_SUFFIXES = (".nhdr", ".mhd")
# What names another file in the header of NRRD, and in MetaImage's: there `LOCAL` says that the voxels follow.
NAMES_A_FILE = {
    ".nrrd": re.compile(rb"\s*data ?file\s*:(?!=)", re.IGNORECASE),
    ".mha": re.compile(rb"\s*ElementDataFile\s*[=:]\s*(?!LOCAL\s*$)", re.IGNORECASE),
}
# Segmentation files name each of their segments; no header is longer.
LONGEST_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class Header:
    """The size that a file's header announces.

    Attributes:
        shape: voxels along each axis, trailing axes of one voxel left out beyond the third.
    """

    shape: tuple[int, ...]

    @property
    def voxels(self) -> int:
        """Number of voxels announced."""
        return prod(self.shape)


def read_header(path: Path) -> Header:
    """The announced size of a volume or picture.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: the header cannot be read, or the kind of file is unknown here.
    """
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    name = path.name.lower()
    try:
        if name.endswith(NIFTI_SUFFIXES):
            image = nib.load(path)
            shape = tuple(int(n) for n in image.shape) if isinstance(image, SpatialImage) else ()
        elif name.endswith(ITK_SUFFIXES):
            shape = tuple(int(n) for n in _itk_header(path).GetSize())
        elif name.endswith(PICTURE_SUFFIXES):
            with Image.open(path) as picture:
                shape = picture.size
        else:
            raise BadInputError(
                f"{path} is of a kind that is not read here; known are {', '.join(READABLE_SUFFIXES)}"
            )
    except BadInputError:
        raise
    except Exception as error:  # readers raise whatever their format library raises on a broken file
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadInputError(f"{path} cannot be read: {first}") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return Header(shape)


def read_grid(path: Path) -> Grid:
    """Where a volume's voxels lie, without reading them. Raises as `read_header`."""
    shape = read_header(path).shape
    name = path.name.lower()
    if name.endswith(PICTURE_SUFFIXES):
        return Grid(shape, np.eye(4))
    if name.endswith(NIFTI_SUFFIXES):
        image = nib.load(path)
        if not isinstance(image, SpatialImage) or len(shape) > 3:
            raise BadInputError(f"{path} is {len(shape)}-D, expected a volume")
        return Grid(shape + (1,) * (3 - len(shape)), np.asarray(image.affine))
    if len(shape) != 3:
        raise BadInputError(f"{path} is {len(shape)}-D, expected 3-D")
    reader = _itk_header(path)
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return Grid(shape, LPS_TO_RAS @ affine)


def check_self_contained(path: Path) -> None:
    """Refuse a file whose header sends its reader on to another one, which may be any file of this machine.

    Raises:
        BadInputError: it is such a file.
    """
    name = path.name.lower()
    sentence = f"{path} keeps its voxels in another file; send one file that holds them, such as .nii.gz"
    if name.endswith(DETACHED_SUFFIXES):
        raise BadInputError(sentence)
    for suffix, names_a_file in NAMES_A_FILE.items():
        if name.endswith(suffix) and any(names_a_file.match(line) for line in _header_lines(path)):
            raise BadInputError(sentence)


def _header_lines(path: Path) -> Iterator[bytes]:
    """Up to the empty line that ends a header, or to where no header can still be going on."""
    left = LONGEST_HEADER_BYTES
    with path.open("rb") as file:
        while left > 0:
            line = file.readline(left)
            if not line.strip():
                return
            left -= len(line)
            yield line


def _itk_header(path: Path) -> Any:
    """ITK's reader after it has read a file's header."""
    # Not at the top: whoever reads NIfTI and pictures alone does not need ITK.
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader
