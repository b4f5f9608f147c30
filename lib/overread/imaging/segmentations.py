"""3D Slicer's segmentation files: NRRD whose header names the segments, some of which may overlap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from overread.domain import BadInputError, Grid
from overread.imaging.headers import read_grid

NAME_KEY = re.compile(r"Segment(\d+)_Name")


@dataclass(frozen=True, eq=False)
class Segments:
    """A segmentation as one label map.

    Attributes:
        labels: `(i, j, k)` int32; value n is the n-th name, 0 none. Where segments overlap, the later one shows, as
            when 3D Slicer exports a label map.
        names: of the segments, in their order.
        grid: where the voxels lie.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    grid: Grid


def read_segments(path: Path) -> Segments | None:
    """Read a file with segments; None where it is none: no NRRD, or no segment in its header.

    The header says of each segment in which layer (component of a voxel) it lies, and with which value. Files from
    before layers were shared have one segment a layer, with value 1.

    Raises:
        BadInputError: the file cannot be read, or holds something else than its header says.
    """
    if not path.name.lower().endswith(".nrrd"):
        return None
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInputError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from error
    numbers = sorted(
        int(found.group(1)) for key in image.GetMetaDataKeys() if (found := NAME_KEY.fullmatch(key))
    )
    if not numbers:
        return None
    if image.GetDimension() != 3:
        raise BadInputError(f"{path} is {image.GetDimension()}-D, expected 3-D with one component a layer")
    layers = sitk.GetArrayFromImage(image)
    layers = layers.reshape(*layers.shape[:3], -1).transpose(2, 1, 0, 3)
    labels = np.zeros(layers.shape[:3], np.int32)
    explained = layers == 0
    for position, number in enumerate(numbers):
        own = min(position, layers.shape[3] - 1)
        layer = _number(path, image, f"Segment{number}_Layer", own)
        value = _number(path, image, f"Segment{number}_LabelValue", 1)
        if not 0 <= layer < layers.shape[3]:
            raise BadInputError(
                f"{path}: segment {number} lies in layer {layer} by its header, the file has {layers.shape[3]}"
            )
        here = layers[..., layer] == value
        labels[here] = position + 1
        explained[..., layer] |= here
    if not explained.all():
        value = layers[~explained][0]
        raise BadInputError(f"{path} holds value {value}, which no segment of its header has")
    names = tuple(image.GetMetaData(f"Segment{number}_Name") for number in numbers)
    return Segments(labels, names, read_grid(path))


def _number(path: Path, image: sitk.Image, key: str, default: int) -> int:
    if not image.HasMetaDataKey(key):
        return default
    text = image.GetMetaData(key)
    try:
        return int(text)
    except ValueError:
        raise BadInputError(f"{path}: {key} is {text!r}, expected a whole number") from None
