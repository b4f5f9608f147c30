"""What a file says it is, without reading its voxels: cheap to ask, so that absurd files can be refused early."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import nibabel as nib
import SimpleITK as sitk
from nibabel.spatialimages import SpatialImage
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.imaging.volumes import ITK_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, READABLE_SUFFIXES


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
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            shape = tuple(int(n) for n in reader.GetSize())
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
