"""QUBIQ 2020/21 as the challenge hands it out.

    brain-growth/Training/case01/image.nii.gz
                                 task01_seg01.nii.gz … task01_seg07.nii.gz    task, rater
    brain-growth/Validation/case35/…
    training_data_v3_QC/pancreas/case1-1/…                                    volumes of 2021

Layout and sizes as told by the READMEs and loaders of public users of the data (openmedlab/Awesome-Medical-Dataset on
QUBIQ2021; mmsegmentation `projects/medical/2d_image/ct/QUBIQ2020`); the challenge: qubiq.grand-challenge.org,
qubiq21.grand-challenge.org, Li et al. 2024 (arXiv:2405.18435). Nobody of this project has seen the files themselves.

`brain-tumor` holds the four MR sequences in the third axis of one image (240 x 240 x 4), its masks are 240 x 240.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.rated.dataset import Examined, RatedCase, RatedDataset
from overread.imaging.rated.files import FileSource
from overread.imaging.rated.layouts import layout
from overread.imaging.rated.naming import unique_names
from overread.imaging.volumes import Volume, read_volume

IMAGE = "image.nii.gz"
SEGMENTATION = re.compile(r"task(?P<task>\d+)_seg(?P<rater>\d+)\.nii\.gz")
# Several scans of one patient, as the 2021 volumes are named; taken so, lest a patient be divided.
SCAN_OF_CASE = re.compile(r"(?P<patient>.+)-\d+")
# `Training` below the data set, or `training_data_v3_QC` above it.
SUBSET = re.compile(r"(?P<name>training|validation|test)(_data.*)?", re.IGNORECASE)
MOST_CHANNELS = 4
DEPTHS = ("case*", "*/case*", "*/*/case*", "*/*/*/case*")

log = logging.getLogger(__name__)


class QubiqSource(FileSource):
    """As `FileSource`; a spacing of exactly 1 mm along each axis is a header that nobody filled in."""

    def examine(self, raters: tuple[str, ...]) -> Examined:
        """Read image and masks."""
        examined = super().examine(raters)
        if examined.image is None or examined.image.spacing_mm is None:
            return examined
        if any(spacing != 1 for spacing in examined.image.spacing_mm):
            return examined
        return Examined(replace(examined.image, spacing_mm=None))


def read_qubiq_image(paths: Sequence[Path]) -> Volume:
    """Read an image; up to four layers in the third axis are channels of a slice."""
    volume = read_volume(paths)
    if len(volume.voxels) == 1 and 1 < volume.grid.shape[2] <= MOST_CHANNELS:
        layers = np.moveaxis(volume.voxels[0], -1, 0)[..., None]
        return Volume(np.ascontiguousarray(layers), Grid(layers.shape[1:], volume.grid.affine))
    return volume


def _recognises(folder: Path) -> bool:
    return any(next(folder.glob(f"{depth}/task*_seg*.nii.gz"), None) for depth in DEPTHS)


@layout("qubiq", looks_like="caseNN/image.nii.gz and caseNN/task01_seg01.nii.gz", recognises=_recognises)
def read_qubiq(folder: Path, *, task: int = 1, dataset: str | None = None) -> RatedDataset:
    """List the cases of one task.

    Cases without any segmentation, such as those of the hidden test set, are left out.

    Args:
        folder: the challenge's folder, one data set of it, or one part of that.
        task: number in the names of the segmentations; `prostate` has 2, `brain-tumor` 3.
        dataset: such as `brain-growth`, where the folder holds several.

    Raises:
        NotFoundError: no such task or data set. BadInputError: several data sets, and none was chosen.
    """
    found = sorted(path for depth in DEPTHS for path in folder.resolve().glob(depth) if path.is_dir())
    places = {path: _place(path) for path in found}
    names = sorted({name for name, _ in places.values()})
    if dataset is not None and dataset not in names:
        raise NotFoundError(f"{folder} holds no data set {dataset!r}; there are {', '.join(names)}")
    if dataset is None and len(names) > 1:
        raise BadInputError(f"{folder} holds several data sets; say which by `dataset`: {', '.join(names)}")
    chosen = dataset or names[0]
    labelled: list[tuple[Path, dict[int, Path]]] = []
    tasks: set[int] = set()
    bare = 0
    for path in (path for path in found if places[path][0] == chosen):
        matches = [(file, SEGMENTATION.fullmatch(file.name)) for file in sorted(path.iterdir())]
        here = {(int(m["task"]), int(m["rater"])): file for file, m in matches if m}
        tasks |= {number for number, _ in here}
        if here:
            labelled.append((path, {rater: file for (of, rater), file in here.items() if of == task}))
        else:
            bare += 1
    if bare:
        log.info("%d cases of %s have no segmentation and are left out", bare, folder)
    if task not in tasks:
        raise NotFoundError(
            f"{folder} has no segmentation of task {task}; there are tasks {', '.join(map(str, sorted(tasks)))}"
        )
    subsets = [places[path][1] for path, _ in labelled]
    ids = unique_names([path.name for path, _ in labelled], subsets)
    cases = []
    for (path, files), case, subset in zip(labelled, ids, subsets, strict=True):
        scan = SCAN_OF_CASE.fullmatch(case)
        source = QubiqSource(
            images=(path / IMAGE,),
            masks=tuple(files[rater] for rater in sorted(files)),
            read_image=read_qubiq_image,
            compare_positions=False,
        )
        raters = tuple(f"rater{rater}" for rater in sorted(files))
        cases.append(RatedCase(case, scan["patient"] if scan else case, raters, source, subset))
    return RatedDataset(f"{chosen} task {task}", tuple(cases))


def _place(case: Path) -> tuple[str, str | None]:
    """Data set and published part that a case's folder lies in."""
    subset = None
    for parent in case.parents:
        match = SUBSET.fullmatch(parent.name)
        if match is None:
            above = SUBSET.fullmatch(parent.parent.name)
            return parent.name, subset or (above["name"].capitalize() if above else None)
        subset = match["name"].capitalize()
    return case.parent.name, subset
