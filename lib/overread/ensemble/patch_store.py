"""Prepared training cases on disk, from which patches are cut without loading the cases.

    <folder>/CASE.image.npy       (channel, *model_space) float32
    <folder>/CASE.label.npy       (*model_space) uint8
    <folder>/CASE.places.npy      (n, 1 + axes) int32: class and voxel of a bounded sample of the foreground; of
                                  partly labelled cases also `IGNORE` and voxel of a sample of all that is labelled

Files are mapped, not read: memory does not grow with the number or the size of the cases. Those of some cases stay
mapped, for opening three files took longer than cutting a patch out of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.plan import Plan
from overread.ensemble.preparation import prepare, prepare_labels
from overread.ensemble.stain import colours_of
from overread.imaging.dataset import Case, Dataset
from overread.imaging.volumes import read_label_of, read_volume

# Voxels remembered per case and class, so that a foreground patch is found without a search.
PLACES_PER_CLASS = 1000
# Cases that stay mapped; each takes three of the files that a process may have open.
MAPPED_CASES = 64
# Of each case, in the order of writing.
PARTS = ("image", "label", "places")


class PatchStore:
    """Prepared cases below one folder.

    Attributes:
        parts: the files of a case, by the ends of their names; the last one is written last.
    """

    parts = PARTS

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._mapped = lru_cache(maxsize=MAPPED_CASES)(self._map)
        self._colours = lru_cache(maxsize=MAPPED_CASES)(self._measure_colours)

    def fill(
        self,
        dataset: Dataset,
        plan: Plan,
        rng: np.random.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare the cases that are not there yet. A case counts as there when its last file is."""
        if plan.classes > IGNORE:
            raise BadInputError(
                f"{plan.classes} classes do not fit 8 bits, where {IGNORE} stands for unlabelled voxels; "
                f"at most {IGNORE} are trained"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, case in enumerate(dataset.cases):
            if not self.holds(case.id):
                self._add(case, plan, rng)
            if progress is not None:
                progress(index + 1, len(dataset.cases))

    def holds(self, case: str) -> bool:
        """Whether that case is prepared."""
        return self._file(case, "places").exists()

    def keep(self, cases: Collection[str]) -> None:
        """Delete what is prepared of all other cases."""
        self._mapped.cache_clear()
        self._colours.cache_clear()
        kept = {self._file(case, what).name for case in cases for what in self.parts}
        for file in self.folder.glob("*.npy"):
            if file.name not in kept:
                file.unlink()

    def sample(
        self, case: str, patch: tuple[int, ...], generator: torch.Generator, *, on_foreground: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut one patch at random; of a partly labelled case, one around a voxel that is labelled, if there is any.

        Voxels that nobody labelled are `IGNORE`. What lies outside the case is background, also of a partly labelled
        one: nothing is there, and the image shows it.

        Args:
            case: its id.
            patch: voxels per axis; where the case is smaller, zeros (background) surround it.
            generator: decides the place.
            on_foreground: centre it, as far as it then lies inside the case, on a voxel of a random class.

        Returns:
            Image `(channel, *patch)` float32 and label `(*patch)` int64.
        """
        image, label, places, present = self._mapped(case)
        centre = None
        is_partial = IGNORE in present
        foreground = present[present != IGNORE]
        if on_foreground and len(foreground):
            rows = np.flatnonzero(places[:, 0] == foreground[_integer(len(foreground), generator)])
            centre = places[rows[_integer(len(rows), generator)], 1:]
        elif is_partial and len(places):
            rows = np.flatnonzero(places[:, 0] == IGNORE)
            centre = places[rows[_integer(len(rows), generator)], 1:]
        starts = []
        for axis, (size, edge) in enumerate(zip(label.shape, patch, strict=True)):
            low, high = min(0, size - edge), max(0, size - edge)
            if centre is None or size <= edge:
                starts.append(low + _integer(high - low + 1, generator))
            else:
                starts.append(int(np.clip(centre[axis] - edge // 2, low, high)))
        source = tuple(
            slice(max(0, s), min(n, s + e)) for s, n, e in zip(starts, label.shape, patch, strict=True)
        )
        target = tuple(slice(cut.start - s, cut.stop - s) for cut, s in zip(source, starts, strict=True))
        image_patch = torch.zeros((image.shape[0], *patch))
        label_patch = torch.zeros(patch, dtype=torch.int64)
        image_patch[(slice(None), *target)] = torch.from_numpy(np.array(image[(slice(None), *source)]))
        label_patch[target] = torch.from_numpy(np.array(label[source], dtype=np.int64))
        return image_patch, label_patch

    def classes(self, case: str) -> frozenset[int]:
        """Which structures a case holds: their classes, background left out."""
        return frozenset(self._mapped(case)[3].tolist()) - {IGNORE}

    def colours(self, case: str) -> torch.Tensor:
        """How an RGB case's tissue is coloured, see `stain.colours_of`."""
        return self._colours(case)

    def _measure_colours(self, case: str) -> torch.Tensor:
        return colours_of(torch.from_numpy(np.array(self._mapped(case)[0])))

    def _map(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Image, label and places of a case, and which classes its places are of."""
        image, label, places = (np.load(self._file(case, part), mmap_mode="r") for part in PARTS)
        return image, label, places, np.unique(places[:, 0])

    def _add(self, case: Case, plan: Plan, rng: np.random.Generator) -> None:
        volume = read_volume(case.channels)
        prepared = prepare(plan, volume)
        labels = prepare_labels(read_label_of(case.label, volume.grid), prepared, plan.classes).numpy()
        places = [self._places_of(index, labels == index, rng) for index in range(1, plan.classes)]
        labelled = labels != IGNORE
        if not labelled.all():
            places.append(self._places_of(IGNORE, labelled, rng))
        self._write(case.id, "image", prepared.voxels.numpy())
        self._write(case.id, "label", labels)
        self._write(case.id, "places", np.concatenate(places))
        self._mapped.cache_clear()

    def _places_of(self, value: int, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows of `value` and voxel for at most `PLACES_PER_CLASS` voxels of `where`, drawn evenly."""
        found = np.argwhere(where)
        if len(found) > PLACES_PER_CLASS:
            found = found[rng.choice(len(found), size=PLACES_PER_CLASS, replace=False)]
        return np.insert(found, 0, value, axis=1).astype(np.int32)

    def _file(self, case: str, what: str) -> Path:
        return self.folder / f"{case}.{what}.npy"

    def _write(self, case: str, what: str, array: np.ndarray) -> None:
        temporary = self.folder / f".{case}.{what}.partial"
        with temporary.open("wb") as file:
            np.save(file, array)
        os.replace(temporary, self._file(case, what))  # noqa: PTH105


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))
