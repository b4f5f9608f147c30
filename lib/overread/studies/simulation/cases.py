"""Labelled cases of a simulation, and who of them starts, guards, waits and judges; patients are never divided."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import Case, read_dataset
from overread.imaging.volumes import read_labelmap

PAIRED = ("images", "labels")
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Labelled:
    """A folder of labelled cases.

    Attributes:
        name: of the data set.
        classes: by label value, the background first.
        channels: of the images; every case has one file, which holds all of them.
        cases: sorted by id.
        patients: whose each case is.
    """

    name: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    patients: Mapping[str, str]


@dataclass(frozen=True)
class Split:
    """Ids of the cases by what they are for; no patient has cases in two of the groups.

    Attributes:
        start: the starter model learns from them.
        protected: calibrate and guard the gate; never trained on.
        pool: wait for a robot's label.
        test: judge, and are seen by nothing else.
    """

    start: tuple[str, ...]
    protected: tuple[str, ...]
    pool: tuple[str, ...]
    test: tuple[str, ...]


def read_labelled(
    folder: Path, classes: tuple[str, ...] = (), patient_pattern: str | None = None
) -> Labelled:
    """Read nnU-Net's raw layout, or a folder with `images/` and `labels/` under the same file names.

    Args:
        folder: the data.
        classes: names by label value, background first; only for `images/` and `labels/`. None given: they are
            numbered up to the largest value found.
        patient_pattern: regular expression whose first group (or whole match) in a case's id is the patient; without
            it every case is a patient of its own.

    Raises:
        NotFoundError: neither layout. BadInputError: unusable pattern, or cases with several files.
    """
    folder = Path(folder)
    if (folder / "dataset.json").exists():
        dataset = read_dataset(folder)
        if several := [case.id for case in dataset.cases if len(case.channels) != 1]:
            raise BadInputError(
                f"case {several[0]} of {folder} has several image files; a study folder of MONAI Label holds one "
                "file a case, so join the channels first (`overread group-channels`)"
            )
        name, names, channels, cases = dataset.name, dataset.classes, dataset.channels, dataset.cases
    elif all((folder / part).is_dir() for part in PAIRED):
        name, channels = folder.name, ("image",)
        cases = _paired(folder)
        names = classes or _numbered(cases)
    else:
        raise NotFoundError(
            f"{folder} holds neither dataset.json (nnU-Net's raw layout) nor images/ and labels/"
        )
    return Labelled(name, names, channels, cases, _patients(cases, patient_pattern))


def split_by_patient(
    labelled: Labelled,
    rng: np.random.Generator,
    *,
    start: int,
    protected: int,
    test: int,
    pool: int | None = None,
) -> Split:
    """Draw patients at random into the groups.

    Start and protected cases are one a patient (the patient's others are left out), so that their numbers are exact.
    Test patients come with all their cases, until there are `test` of them; so does the pool, up to `pool`.

    Raises:
        BadInputError: there are too few patients.
    """
    of_patient: dict[str, list[str]] = {}
    for case in labelled.cases:
        of_patient.setdefault(labelled.patients[case.id], []).append(case.id)
    names = sorted(of_patient)
    order = [names[index] for index in rng.permutation(len(names))]
    tested: list[str] = []
    while order and len(tested) < test:
        tested += of_patient[order.pop(0)]
    if len(order) <= start + protected:
        raise BadInputError(
            f"{labelled.name} has {len(names)} patients: too few for {test} test, {start} start and {protected} "
            "protected cases and a pool of further ones"
        )
    chosen = [str(rng.choice(of_patient[patient])) for patient in order[: start + protected]]
    waiting = [case for patient in order[start + protected :] for case in of_patient[patient]]
    return Split(
        start=tuple(sorted(chosen[:start])),
        protected=tuple(sorted(chosen[start:])),
        pool=tuple(sorted(waiting[:pool])),
        test=tuple(sorted(tested[:test])),
    )


def write_raw(labelled: Labelled, ids: tuple[str, ...], folder: Path) -> Path:
    """Copy cases to a folder in nnU-Net's raw layout, with their patients; it appears whole or not at all."""
    cases = {case.id: case for case in labelled.cases}
    ending = _ending(cases[ids[0]].label)
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (staging / part).mkdir(parents=True)
    for name in ids:
        shutil.copyfile(cases[name].channels[0], staging / "imagesTr" / f"{name}_0000{ending}")
        shutil.copyfile(cases[name].label, staging / "labelsTr" / f"{name}{ending}")
    description = {
        "name": labelled.name,
        "channel_names": {str(index): channel for index, channel in enumerate(labelled.channels)},
        "labels": {name: value for value, name in enumerate(labelled.classes)},
        "numTraining": len(ids),
        "file_ending": ending,
        "patients": {name: labelled.patients[name] for name in ids},
    }
    (staging / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    staging.rename(folder)
    return folder


def split_to_json(split: Split) -> dict[str, list[str]]:
    """Plain JSON."""
    return {name: list(ids) for name, ids in asdict(split).items()}


def _paired(folder: Path) -> tuple[Case, ...]:
    images = {_stem(path): path for path in (folder / "images").iterdir() if _ending(path)}
    labels = {_stem(path): path for path in (folder / "labels").iterdir() if _ending(path)}
    if alone := sorted(images.keys() ^ labels.keys()):
        raise BadInputError(
            f"{alone[0]} has no image or no label in {folder}: images/ and labels/ share file names"
        )
    if not images:
        raise NotFoundError(f"{folder / 'images'} holds no image that ends in {', '.join(ENDINGS)}")
    return tuple(Case(name, (images[name],), labels[name]) for name in sorted(images))


def _numbered(cases: tuple[Case, ...]) -> tuple[str, ...]:
    largest = max(int(read_labelmap(case.label)[0].max()) for case in cases)
    return ("background", *(f"class_{value}" for value in range(1, largest + 1)))


def _patients(cases: tuple[Case, ...], pattern: str | None) -> dict[str, str]:
    if pattern is None:
        return {case.id: case.id for case in cases}
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInputError(f"patient pattern {pattern!r} is not a regular expression: {error}") from error
    found = {case.id: compiled.search(case.id) for case in cases}
    if strange := [name for name, match in found.items() if match is None]:
        raise BadInputError(f"patient pattern {pattern!r} is not found in case {strange[0]}")
    return {name: match.group(1 if compiled.groups else 0) for name, match in found.items() if match}


def _ending(path: Path) -> str:
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), "")


def _stem(path: Path) -> str:
    return path.name.removesuffix(_ending(path))
