"""What MedUHIP learns from: images with the labels of several raters, or of one and of pseudo-raters made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.imaging.dataset import Dataset, ensure_sound
from overread.imaging.rated import RatedCase, RatedDataset, ensure_rated_sound
from overread.imaging.rated.files import FileSource, OfClass
from overread.imaging.volumes import PICTURE_SUFFIXES, Volume, read_label_of, read_volume
from overread.raters.fusion import majority
from overread.raters.pseudo import Style, draw_styles

# The reference as it is, and one of each kind of style.
PSEUDO_RATERS = 5
Progress = Callable[[int, int], None]


class Lessons(Protocol):
    """Labelled cases, whoever labelled them."""

    @property
    def name(self) -> str:
        """Of the data set."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, the background first."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image channels; known once the cases are sound."""
        ...

    @property
    def patients(self) -> Mapping[str, str]:
        """Whose the cases are, by case; all cases are in it."""
        ...

    @property
    def um_per_px(self) -> float | None:
        """Of pictures that were cut from slides."""
        ...

    def check(self, progress: Progress) -> None:
        """Read everything once. Raises BrokenDatasetError with all that is wrong."""
        ...

    def read(self, case: str) -> tuple[Volume, np.ndarray]:
        """The image, and class indices `(rater, *space)`."""
        ...

    def judged(self, case: str) -> tuple[Volume, np.ndarray]:
        """The image, and the label `(*space)` that predictions are held to; `IGNORE` where it is open."""
        ...

    def digest(self) -> str:
        """Changes with the files; reads none."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the model should remember about its raters, plain JSON."""
        ...


class RatedLessons:
    """Cases that several people labelled, with one structure.

    Args:
        dataset: where everybody's labels are. If no case has more than one, pseudo-raters are made of it.
        structure: name of the class.
        seed: of the pseudo-raters' styles.
    """

    um_per_px = None

    def __init__(self, dataset: RatedDataset, structure: str, seed: int = 0) -> None:
        self.dataset = dataset
        self.name, self.classes = dataset.name, ("background", structure)
        self._cases = {case.id: case for case in dataset.cases}
        self.patients = {case.id: case.patient for case in dataset.cases}
        is_single = max(len(case.raters) for case in dataset.cases) <= 1
        self.styles = draw_pseudo_raters(seed) if is_single else ()
        self._channels: tuple[str, ...] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """By what the first case holds: `R`, `G`, `B` of a colour picture; nobody wrote down the names of others."""
        if self._channels is None:
            self._channels = self._look()
        return self._channels

    def _look(self) -> tuple[str, ...]:
        first = self.dataset.cases[0]
        count = len(first.read().image)
        if count == 3 and _is_picture(first):
            return ("R", "G", "B")
        return ("image",) if count == 1 else tuple(f"image {index}" for index in range(count))

    def check(self, progress: Progress) -> None:
        """See `Lessons`."""
        ensure_rated_sound(self.dataset, progress)

    def read(self, case: str) -> tuple[Volume, np.ndarray]:
        """See `Lessons`."""
        image = self._cases[case].read()
        labels = image.masks.astype(np.uint8)
        if self.styles:
            labels = pseudo_labels(labels[0], image.volume.grid.spacing_mm, self.styles, 2)
        return image.volume, labels

    def judged(self, case: str) -> tuple[Volume, np.ndarray]:
        """What most raters say; a tie leaves the voxel open."""
        image = self._cases[case].read()
        return image.volume, majority(list(image.masks.astype(np.uint8)), 2)

    def digest(self) -> str:
        """See `Lessons`."""
        said = sha256()
        for case in self.dataset.cases:
            said.update(f"{case.id} {case.patient} {case.raters}\n".encode())
            if isinstance(case.source, FileSource):
                rule = case.source.read_mask
                # The value of the class; a function is the layout's own.
                said.update(repr(rule).encode() if isinstance(rule, OfClass) else b"")
                said.update(_stated((*case.source.images, *case.source.masks)))
            else:
                said.update(repr(case.source).encode())
        return said.hexdigest()

    def facts(self) -> dict[str, Any]:
        """See `Lessons`."""
        if self.styles:
            return {"pseudo_raters": [asdict(style) for style in self.styles]}
        return {"raters": list(self.dataset.raters), "same_raters": self.dataset.same_raters}


class SingleLessons:
    """Cases in nnU-Net's raw layout, which one person labelled, as several pseudo-raters would have.

    Args:
        dataset: the cases; any number of classes.
        seed: of the pseudo-raters' styles.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset = dataset
        self.name, self.classes, self.channels = dataset.name, dataset.classes, dataset.channels
        if dataset.colours is not None:
            raise BadInputError(
                f"the pictures of {dataset.name} were brought to one laboratory's colours, and MedUHIP models see "
                "slides as they are; train one on pictures whose dataset.json names no colours"
            )
        self.um_per_px = dataset.um_per_px
        self._cases = {case.id: case for case in dataset.cases}
        self.patients = {case.id: dataset.patient_of(case.id) for case in dataset.cases}
        self.styles = draw_pseudo_raters(seed)

    def check(self, progress: Progress) -> None:
        """See `Lessons`."""
        ensure_sound(self.dataset, progress)

    def read(self, case: str) -> tuple[Volume, np.ndarray]:
        """See `Lessons`.

        Raises:
            BadInputError: nobody labelled some of the voxels, which a pseudo-rater cannot make up.
        """
        volume, label = self.judged(case)
        if (label == IGNORE).any():
            raise BadInputError(
                f"case {case} has voxels that nobody labelled; MedUHIP learns from cases that are labelled fully"
            )
        labels = pseudo_labels(label, volume.grid.spacing_mm, self.styles, len(self.classes))
        return volume, labels

    def judged(self, case: str) -> tuple[Volume, np.ndarray]:
        """The one label that there is."""
        files = self._cases[case]
        volume = read_volume(files.channels)
        return volume, read_label_of(files.label, volume.grid)

    def digest(self) -> str:
        """See `Lessons`."""
        said = sha256()
        for case in self.dataset.cases:
            said.update(case.id.encode() + _stated((*case.channels, case.label)))
        return said.hexdigest()

    def facts(self) -> dict[str, Any]:
        """See `Lessons`."""
        return {"pseudo_raters": [asdict(style) for style in self.styles]}


def draw_pseudo_raters(seed: int) -> tuple[Style, ...]:
    """`PSEUDO_RATERS` styles, the reference's own first; they are kept over all cases."""
    return (Style(), *draw_styles(PSEUDO_RATERS - 1, np.random.default_rng([seed, PSEUDO_RATERS])))


def pseudo_labels(
    label: np.ndarray, spacing_mm: Sequence[float], styles: Sequence[Style], classes: int
) -> np.ndarray:
    """What each style makes of a label map: class indices `(rater, *space)` uint8.

    A rater has one style for all classes. Where several of a rater's classes want a voxel, it stays what the reference
    says if that is one of them; else it goes to the first.

    Args:
        label: class indices `(*space)`.
        spacing_mm: between neighbours; of pictures, whose size nobody knows, a pixel counts as 1 mm.
    """
    said = np.zeros((len(styles), *label.shape), np.uint8)
    for of_rater, style in zip(said, styles, strict=True):
        settled = np.zeros(label.shape, bool)
        for index in range(1, classes):
            wanted = style.label(label == index, spacing_mm)
            own = wanted & (label == index)
            of_rater[own | (wanted & ~settled)] = index
            settled |= wanted
    return said


def _is_picture(case: RatedCase) -> bool:
    source = case.source
    return isinstance(source, FileSource) and all(
        path.name.lower().endswith(PICTURE_SUFFIXES) for path in source.images
    )


def _stated(paths: Sequence[Path]) -> bytes:
    said = []
    for path in paths:
        size, changed = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (0, 0)
        said.append(f"{path.name} {size} {changed}\n")
    return "".join(said).encode()
