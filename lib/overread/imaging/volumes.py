"""Read and write volumes and 2D images with their grid."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from nibabel.nifti1 import Nifti1Image
from nibabel.spatialimages import SpatialImage
from PIL import Image

from overread.domain import BadInputError, Grid, NotFoundError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
READABLE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """Image channels on one grid.

    Attributes:
        voxels: `(channel, *space)`, float32, finite, in the axis order of the file (i fastest).
        grid: where they lie.
    """

    voxels: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.voxels.shape[1:]) != self.grid.shape:
            raise BadInputError(f"voxels {self.voxels.shape} do not fit the grid {self.grid.shape}")


def read_volume(channels: Sequence[Path]) -> Volume:
    """Read one file a channel (a colour picture gives three).

    Raises:
        NotFoundError: a file is missing.
        BadInputError: a file is unreadable, has a time axis, holds NaN, or the channels' grids differ.
    """
    if not channels:
        raise BadInputError("a volume needs at least one channel file, got none")
    stack: list[np.ndarray] = []
    grid: Grid | None = None
    for path in channels:
        array, here = read_array(Path(path))
        voxels = array.astype(np.float32, copy=False)
        if voxels.ndim == len(here.shape):
            voxels = voxels[None]
        if not np.isfinite(voxels).all():
            share = 100 * (1 - np.isfinite(voxels).mean())
            raise BadInputError(f"{path} holds NaN or infinite values ({share:.2g} % of the voxels)")
        if grid is not None and (difference := here.difference_from(grid)):
            raise BadInputError(f"{path} lies on another grid than {channels[0]}: {difference}")
        grid = grid or here
        stack.append(voxels)
    assert grid is not None
    return Volume(np.ascontiguousarray(np.concatenate(stack)), grid)


def read_labelmap(path: Path) -> tuple[np.ndarray, Grid]:
    """Read integer labels `(*space)` and their grid.

    Raises:
        BadInputError: values that are not whole numbers, or a file with several channels.
    """
    array, grid = read_array(Path(path))
    if array.ndim != len(grid.shape):
        raise BadInputError(f"{path} has {array.shape[0]} channels, a label map has one")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise BadInputError(f"{path} holds NaN or infinite values; a label map holds whole numbers")
        rounded = np.rint(array)
        if np.abs(array - rounded).max(initial=0) > 1e-3:
            odd = array[np.abs(array - rounded) > 1e-3][0]
            raise BadInputError(
                f"{path} holds {odd:.4g}; a label map holds whole numbers (was it interpolated?)"
            )
        array = rounded
    return array.astype(np.int32), grid


def read_label_of(path: Path, image: Grid) -> np.ndarray:
    """Read integer labels `(*space)` that lie on an image's grid; a picture's label has two axes, however it was kept.

    Raises:
        BadInputError: as `read_labelmap`, or the label lies on another grid.
    """
    labels, grid = read_labelmap(path)
    if difference := label_difference(grid, image):
        raise BadInputError(f"{path} lies on another grid than its image: {difference}")
    return labels.reshape(image.shape)


def label_difference(label: Grid, image: Grid) -> str | None:
    """What tells a label's grid from its image's, in words; None where the label fits.

    A picture has no position that viewers agree on, and its label may have been kept as a volume of one slice.
    """
    if len(image.shape) == 3:
        return label.difference_from(image)
    fits = label.shape in (image.shape, (*image.shape, 1))
    return None if fits else f"shape {label.shape} instead of {image.shape}"


def read_array(path: Path) -> tuple[np.ndarray, Grid]:
    """Read voxels as stored, `(*space)` or `(channel, *space)` for colour pictures, and their grid."""
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    name = path.name.lower()
    try:
        if name.endswith(NIFTI_SUFFIXES):
            return _read_nifti(path)
        if name.endswith(ITK_SUFFIXES):
            return _read_itk(path)
        if name.endswith(PICTURE_SUFFIXES):
            return _read_picture(path)
    except BadInputError:
        raise
    except Exception as error:  # readers raise whatever their format library raises on a broken file
        raise BadInputError(f"{path} cannot be read: {_first_line(error)}") from error
    raise BadInputError(
        f"{path} is of a kind that is not read here; known are {', '.join(READABLE_SUFFIXES)}"
    )


def write_nifti(path: Path, voxels: np.ndarray, grid: Grid) -> None:
    """Write `(*space)` as NIfTI, whole or not at all: the file appears under its name when it is complete."""
    shape = voxels.shape if voxels.ndim == 3 else (*voxels.shape, 1)
    image = Nifti1Image(np.asarray(voxels).reshape(shape), grid.affine)
    image.header.set_xyzt_units("mm")
    with _whole_or_not_at_all(path, ".nii.gz" if path.name.endswith(".nii.gz") else ".nii") as temporary:
        nib.save(image, temporary)


def write_nrrd(path: Path, labels: np.ndarray, grid: Grid, compress: bool = True) -> None:
    """Write labels `(*space)` as 8-bit NRRD, the form in which 3D Slicer asks for results, whole or not at all.

    The affine is kept to the last bits of a double, also where it is oblique, flipped or sheared.

    Raises:
        BadInputError: a label is no whole number of 0..255, or the labels do not fit the grid.
    """
    labels = np.asarray(labels)
    if labels.shape != grid.shape:
        raise BadInputError(f"labels {labels.shape} do not fit the grid {grid.shape}")
    with np.errstate(invalid="ignore"):
        eight_bit = labels.astype(np.uint8)
    if not np.array_equal(eight_bit, labels):
        raise BadInputError(
            f"labels go from {labels.min()} to {labels.max()}, an 8-bit label map holds whole numbers of 0..255"
        )
    if eight_bit.ndim == 2:
        eight_bit = eight_bit[..., None]
    # Not at the top: whoever reads NIfTI and pictures alone does not need ITK.
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(eight_bit.transpose(2, 1, 0))
    affine = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with _whole_or_not_at_all(path, ".nrrd") as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=compress, compressionLevel=1)


@contextmanager
def _whole_or_not_at_all(path: Path, suffix: str) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{suffix}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_nifti(path: Path) -> tuple[np.ndarray, Grid]:
    image = nib.load(path)
    if not isinstance(image, SpatialImage):
        raise BadInputError(f"{path} is not an image with a grid")
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise BadInputError(
            f"{path} is {len(shape)}-D {tuple(image.shape)}, expected 3-D; is it a time series?"
        )
    array = np.asanyarray(image.dataobj).reshape(shape + (1,) * (3 - len(shape)))
    return array, Grid(array.shape, np.asarray(image.affine))


def _read_itk(path: Path) -> tuple[np.ndarray, Grid]:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise BadInputError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} components a voxel, expected 1"
        )
    if image.GetDimension() != 3:
        raise BadInputError(f"{path} is {image.GetDimension()}-D, expected 3-D")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return array, Grid(array.shape, LPS_TO_RAS @ affine)


def _read_picture(path: Path) -> tuple[np.ndarray, Grid]:
    if path.name.lower().endswith((".tif", ".tiff")):
        # Headers of microscopes name further files that belong to the picture; none of them is opened.
        array = tifffile.imread(path, is_ome=False, is_mmstack=False, is_ndtiff=False)
    else:
        with Image.open(path) as picture:
            array = np.asarray(picture.convert("RGB") if picture.mode in ("P", "CMYK", "RGBA") else picture)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = np.moveaxis(array[..., :3], -1, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] != 3):
        raise BadInputError(f"{path} has shape {array.shape}, expected a grey or RGB picture")
    # Rows and columns become y and x: the first axis is x, as i is in volumes.
    array = np.swapaxes(array, -1, -2)
    return array, Grid(array.shape[-2:], np.eye(4))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
