"""A case that lies in image files and one mask file of each rater."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overread.domain import BadInputError, Grid
from overread.imaging.rated.dataset import Examined, Fault
from overread.imaging.rated.image import RatedImage
from overread.imaging.volumes import READABLE_SUFFIXES, Volume, read_array, read_labelmap, read_volume

ReadMask = Callable[[Path], tuple[np.ndarray, Grid]]
ReadImage = Callable[[Sequence[Path]], Volume]


def two_valued(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a mask that holds 0 and one other value, such as 1 or 255.

    Raises:
        BadInputError: it cannot be read, has colours, or holds more values.
    """
    array, grid = _read_grey(path)
    values = np.unique(array)
    if len(values[values != 0]) > 1:
        some = ", ".join(f"{value:g}" for value in values[:4])
        raise BadInputError(
            f"{path} holds {len(values)} values ({some} …), a mask holds 0 and one other; was it interpolated, "
            "or is it a map of several classes?"
        )
    return array != 0, grid


def brighter_than_half(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a mask whose edges may be grey: of 8 bits, what is above 127; of 0 and 1, what is 1.

    Raises:
        BadInputError: it cannot be read or has colours.
    """
    array, grid = _read_grey(path)
    return array > (127 if array.max(initial=0) > 1 else 0), grid


@dataclass(frozen=True)
class OfClass:
    """Reads one class of a label map as a mask. Raises as `read_labelmap`."""

    value: int

    def __call__(self, path: Path) -> tuple[np.ndarray, Grid]:
        labels, grid = read_labelmap(path)
        return labels == self.value, grid


@dataclass(frozen=True)
class FileSource:
    """Image files, and one mask file a rater.

    Attributes:
        images: one a channel, or one with several.
        masks: in the order of the raters.
        spacing_mm: what the data set's description says; None takes what the image files say, and pictures say
            nothing.
        read_image, read_mask: how the files are read.
        compare_positions: whether masks must lie where the image lies; otherwise they need its shape only.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    spacing_mm: tuple[float, ...] | None = None
    read_image: ReadImage = read_volume
    read_mask: ReadMask = two_valued
    compare_positions: bool = True

    def examine(self, raters: tuple[str, ...]) -> Examined:
        """Read image and masks; a volume of one slice becomes a picture."""
        faults = [Fault(path, "image file is missing") for path in self.images if not path.exists()]
        volume: Volume | None = None
        if not faults:
            try:
                volume = self.read_image(self.images)
            except BadInputError as error:
                faults.append(Fault(_culprit(self.images, error), str(error)))
        masks = []
        for path in self.masks:
            try:
                mask, grid = self.read_mask(path)
            except BadInputError as error:
                faults.append(Fault(path, str(error)))
                continue
            if volume is not None and (difference := self._difference(grid, volume.grid)):
                faults.append(Fault(path, f"lies on another grid than its image: {difference}"))
            elif volume is not None:
                masks.append(mask.reshape(_space(volume.grid)))
        if faults or volume is None:
            return Examined(None, tuple(faults))
        space = _space(volume.grid)
        spacing_mm = self.spacing_mm
        if spacing_mm is None and len(volume.grid.shape) == 3:
            spacing_mm = volume.grid.spacing_mm[: len(space)]
        image = volume.voxels.reshape(len(volume.voxels), *space)
        grid = volume.grid if len(space) == 3 else None
        return Examined(RatedImage(image, np.stack(masks), raters, spacing_mm, grid))

    def _difference(self, mask: Grid, image: Grid) -> str | None:
        if _space(mask) != _space(image):
            return f"shape {_space(mask)} instead of {_space(image)}"
        # Pictures have no position.
        if self.compare_positions and len(mask.shape) == len(image.shape) == 3:
            return mask.difference_from(image)
        return None


def case_name(path: Path) -> str | None:
    """A file's name without what says its kind; None for files of a kind that is not read here."""
    lower = path.name.lower()
    ending = next((suffix for suffix in READABLE_SUFFIXES if lower.endswith(suffix)), None)
    if ending is None or path.name.startswith("."):
        return None
    return path.name[: -len(ending)]


def files_by_name(folder: Path) -> dict[str, Path]:
    """The readable files of a folder by case name.

    Raises:
        BadInputError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = case_name(path)
        if name is None or not path.is_file():
            continue
        if name in found:
            raise BadInputError(f"{found[name]} and {path.name} are both called {name}; which one is meant?")
        found[name] = path
    return found


def _read_grey(path: Path) -> tuple[np.ndarray, Grid]:
    array, grid = read_array(path)
    if array.ndim != len(grid.shape):
        if not (array == array[:1]).all():
            raise BadInputError(f"{path} is a picture in colour, a mask has one channel")
        array = array[0]
    return array, grid


def _space(grid: Grid) -> tuple[int, ...]:
    return grid.shape[:2] if grid.shape[2:] == (1,) else grid.shape


def _culprit(paths: tuple[Path, ...], error: BadInputError) -> Path:
    return next((path for path in paths if str(path) in str(error)), paths[0])
