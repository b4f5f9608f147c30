"""A folder of labelled cases in nnU-Net v2's raw layout, and everything that is wrong with one.

    dataset.json          channel_names, labels, file_ending, numTraining; optional: patients (case to patient),
                          um_per_px (the pictures were cut from slides at that many micrometres per pixel),
                          slides (case to the file of that slide, as seen from this folder)
    imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz …   one file a channel
    labelsTr/CASE.nii.gz
    imagesTs/             optional, not read here
    patients.csv          optional: case, patient, and centre or domain, see `patients`

A colour picture holds its three channels in the one file `CASE_0000.png`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from overread.domain import BadInputError, Grid, NotFoundError
from overread.domain.labels import IGNORE
from overread.domain.slides import PixelSize
from overread.imaging.patients import FILE as ORIGINS
from overread.imaging.patients import Origin, names_of, read_origins
from overread.imaging.volumes import label_difference, read_labelmap, read_volume

DESCRIPTION = "dataset.json"
REQUIRED_KEYS = ("channel_names", "labels", "file_ending", "numTraining")
IMAGE_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Case:
    """One labelled image.

    Attributes:
        id: the name that the files share.
        channels: image files in channel order.
        label: the label map's file.
    """

    id: str
    channels: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` and the folders say; no voxel was read yet.

    Attributes:
        name: the folder's name, or `name` of `dataset.json`.
        classes: names by label value; the first is the background.
        channels: names of the image channels, such as `CT` or `T1`.
        cases: sorted by id. Files that are named here may be missing: see `check_dataset`.
        announced: `numTraining` of `dataset.json`.
        patients: whose the cases are, by case id; a case that is not named is a patient of its own.
        um_per_px: edge of a pixel in micrometres where the pictures were cut from slides; None elsewhere.
        slides: the slides that pictures were cut from, by case id, as far as they are named; they may be missing.
        domains: where the cases were made, by case id, as far as `patients.csv` tells it.
        strangers: names in `patients.csv` that are no case's.
        colours: moments `(3, 3)` that all pictures were brought to (see `imaging.slides.colours`); None where they were
            left as they are.
    """

    name: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    announced: int
    patients: Mapping[str, str] = field(default_factory=dict)
    um_per_px: float | None = None
    slides: Mapping[str, Path] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()
    colours: tuple[tuple[float, ...], ...] | None = None

    def patient_of(self, case_id: str) -> str:
        """Whose case that is; two cases of one patient are never split between learning and judging."""
        return self.patients.get(case_id, case_id)

    def of_domain(self, domain: str) -> tuple[Case, ...]:
        """The cases that were made there.

        Raises:
            NotFoundError: there is no such domain.
        """
        found = tuple(case for case in self.cases if self.domains.get(case.id) == domain)
        if not found:
            there = ", ".join(sorted(set(self.domains.values()))) or "none: is there a patients.csv?"
            raise NotFoundError(f"dataset {self.name} has no domain {domain!r}; there are {there}")
        return found


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which case, in which file, and what."""

    case: str
    file: str
    what: str


class Named(Protocol):
    """A data set, of whatever kind."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...


class BrokenDatasetError(BadInputError):
    """Cases that cannot be trained on.

    Attributes:
        problems: all of them.
    """

    def __init__(self, dataset: Named, problems: list[Problem]) -> None:
        rows = "\n".join(f"  {p.case or '-'} | {p.file} | {p.what}" for p in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"dataset {dataset.name} has {count}:\n{rows}")
        self.problems = tuple(problems)


def read_dataset(folder: Path) -> Dataset:
    """Read `dataset.json` and list the cases.

    Raises:
        NotFoundError: no `dataset.json`, or no case.
        BadInputError: `dataset.json` is broken, or asks for what is not supported (regions, ignore label);
            `patients.csv` is broken, or gives a case to another patient than `dataset.json` does.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.exists():
        raise NotFoundError(f"{folder} holds no {DESCRIPTION}: expected nnU-Net v2's raw layout")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise BadInputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise BadInputError(f"{path} holds a {type(description).__name__}, expected an object")
    if missing := [key for key in REQUIRED_KEYS if key not in description]:
        raise BadInputError(f"{path} lacks {', '.join(repr(key) for key in missing)}")
    if not isinstance(description["numTraining"], int):
        raise BadInputError(f"{path}: numTraining is {description['numTraining']!r}, expected a whole number")
    ending = description["file_ending"]
    if not isinstance(ending, str) or not ending.startswith("."):
        raise BadInputError(f"{path}: file_ending is {ending!r}, expected something like '.nii.gz'")
    cases = _cases(folder, ending)
    if not cases:
        raise NotFoundError(f"{folder} holds no case: nothing in imagesTr or labelsTr ends in {ending}")
    origins = read_origins(folder)
    of_case = {
        case.id: origins[name] for case in cases for name in reversed(names_of(case.id)) if name in origins
    }
    told = _patients(path, description.get("patients", {}))
    _ensure_same_patients(folder, told, of_case)
    return Dataset(
        name=str(description.get("name", folder.name)),
        classes=_classes(path, description["labels"]),
        channels=_channels(path, description["channel_names"]),
        cases=cases,
        announced=description["numTraining"],
        patients={case: origin.patient for case, origin in of_case.items()} | told,
        um_per_px=_um_per_px(path, description.get("um_per_px")),
        colours=_colours(path, description.get("colours"), description.get("um_per_px")),
        slides=_slides(path, description.get("slides", {})),
        domains={case: origin.centre for case, origin in of_case.items() if origin.centre},
        strangers=tuple(sorted(origins.keys() - {name for case in cases for name in names_of(case.id)})),
    )


def check_dataset(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, *, accepted: bool = False
) -> list[Problem]:
    """Read every file once and list all that would hurt training; an empty list means sound.

    Args:
        dataset: from `read_dataset`.
        progress: called with (cases read, cases) after each case.
        accepted: the labels come from readers at work: voxels may be `IGNORE`, though not all of them, and a case may
            hold no foreground. Of pictures that were cut from slides this holds always.
    """
    partial = accepted or dataset.um_per_px is not None
    problems: list[Problem] = []
    if dataset.announced != len(dataset.cases):
        what = f"numTraining is {dataset.announced}, but there are {len(dataset.cases)} cases"
        problems.append(Problem("", DESCRIPTION, what))
    problems += [
        Problem(name, ORIGINS, "is in the table, but not among the images") for name in dataset.strangers
    ]
    if dataset.domains:
        homeless = [case.id for case in dataset.cases if case.id not in dataset.domains]
        problems += [Problem(name, ORIGINS, "has no centre, and other cases have one") for name in homeless]
    axes: dict[str, int] = {}
    for index, case in enumerate(dataset.cases):
        problems += _check_case(dataset, case, axes, partial)
        if progress is not None:
            progress(index + 1, len(dataset.cases))
    if len(set(axes.values())) > 1:
        usual = Counter(axes.values()).most_common(1)[0][0]
        problems += [
            Problem(case, "", f"is {count}-D, most cases are {usual}-D")
            for case, count in axes.items()
            if count != usual
        ]
    return problems


def ensure_sound(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, *, accepted: bool = False
) -> None:
    """Raise one BrokenDatasetError that holds all problems (see `check_dataset`), if there are any."""
    if problems := check_dataset(dataset, progress, accepted=accepted):
        raise BrokenDatasetError(dataset, problems)


def _cases(folder: Path, ending: str) -> tuple[Case, ...]:
    channels: dict[str, dict[int, Path]] = {}
    for path in sorted((folder / "imagesTr").glob(f"*{ending}")):
        if path.name.startswith("."):
            continue
        match = IMAGE_NAME.fullmatch(path.name[: -len(ending)])
        # A name without channel number becomes a case of its own, so that the check can complain about it.
        name, channel = (match["case"], int(match["channel"])) if match else (path.name[: -len(ending)], 0)
        channels.setdefault(name, {})[channel] = path
    labels = {
        path.name[: -len(ending)]: path
        for path in sorted((folder / "labelsTr").glob(f"*{ending}"))
        if not path.name.startswith(".")
    }
    found = []
    for name in sorted(channels.keys() | labels.keys()):
        files = channels.get(name, {})
        count = max(files, default=0) + 1
        images = tuple(files.get(i, folder / "imagesTr" / f"{name}_{i:04d}{ending}") for i in range(count))
        found.append(Case(name, images, labels.get(name, folder / "labelsTr" / f"{name}{ending}")))
    return tuple(found)


def _classes(path: Path, labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, dict):
        raise BadInputError(f"{path}: labels is a {type(labels).__name__}, expected names with their values")
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise BadInputError(
            f"{path}: label {regions[0]!r} is a region made of several values; regions are not supported, "
            "give each class a value of its own"
        )
    if "ignore" in labels:
        raise BadInputError(f"{path}: an ignore label is not supported; label the cases fully")
    values: dict[int, str] = {}
    for name, value in labels.items():
        if not str(value).isdigit() or isinstance(value, bool):
            raise BadInputError(f"{path}: label {name!r} has value {value!r}, expected a whole number")
        if int(value) in values:
            raise BadInputError(f"{path}: labels {values[int(value)]!r} and {name!r} share value {value}")
        values[int(value)] = name
    if sorted(values) != list(range(len(values))) or len(values) < 2:
        raise BadInputError(
            f"{path}: label values are {sorted(values)}, expected 0 (background), 1, 2 … without a gap"
        )
    return tuple(values[value] for value in sorted(values))


def _channels(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))) or not names:
        raise BadInputError(f"{path}: channel_names is {names!r}, expected such as {{'0': 'CT'}}")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _patients(path: Path, patients: Any) -> dict[str, str]:
    if not isinstance(patients, dict) or not all(
        isinstance(name, str) and name for name in patients.values()
    ):
        raise BadInputError(f"{path}: patients is {patients!r}, expected such as {{'case_1': 'patient_a'}}")
    return patients


def _ensure_same_patients(folder: Path, told: Mapping[str, str], of_case: Mapping[str, Origin]) -> None:
    for case, origin in of_case.items():
        if told.get(case, origin.patient) != origin.patient:
            raise BadInputError(
                f"{folder} gives case {case} to patient {told[case]} in {DESCRIPTION} and to {origin.patient} in "
                f"{ORIGINS}"
            )


def _slides(path: Path, slides: Any) -> dict[str, Path]:
    if not isinstance(slides, dict) or not all(isinstance(file, str) and file for file in slides.values()):
        raise BadInputError(f"{path}: slides is {slides!r}, expected such as {{'case_1': '../slides/a.svs'}}")
    return {case: (path.parent / file).resolve() for case, file in slides.items()}


def _colours(path: Path, colours: Any, um_per_px: Any) -> tuple[tuple[float, ...], ...] | None:
    if colours is None:
        return None
    wanted = (
        f"{path}: colours is {colours!r}, expected the 3 x 3 second moments that `overread recolour` writes"
    )
    try:
        moments = np.array(colours, dtype=float)
    except (TypeError, ValueError) as error:
        raise BadInputError(wanted) from error
    if moments.shape != (3, 3) or not np.isfinite(moments).all() or not np.allclose(moments, moments.T):
        raise BadInputError(wanted)
    if np.linalg.eigvalsh(moments).min() <= 0:
        raise BadInputError(wanted)
    if um_per_px is None:
        raise BadInputError(
            f"{path} says colours and no um_per_px: only pictures that were cut from slides have both"
        )
    return tuple(tuple(row) for row in moments.tolist())


def _um_per_px(path: Path, um_per_px: Any) -> float | None:
    if um_per_px is None:
        return None
    if isinstance(um_per_px, bool) or not isinstance(um_per_px, (int, float)):
        raise BadInputError(f"{path}: um_per_px is {um_per_px!r}, expected micrometres per pixel such as 1.0")
    try:
        return PixelSize(float(um_per_px)).um
    except BadInputError as error:
        raise BadInputError(f"{path}: um_per_px: {error}") from error


def _check_case(dataset: Dataset, case: Case, axes: dict[str, int], partial: bool) -> list[Problem]:
    """Problems of one case; enters its number of axes into `axes` where it can be read."""
    problems: list[Problem] = []
    image_grid: Grid | None = None
    missing = [path for path in case.channels if not path.exists()]
    if missing:
        problems += [Problem(case.id, path.name, "channel file is missing") for path in missing]
    else:
        try:
            volume = read_volume(case.channels)
            image_grid = volume.grid
            axes[case.id] = len(image_grid.shape)
            found, expected = len(volume.voxels), len(dataset.channels)
            if found != expected:
                names = ", ".join(dataset.channels)
                what = f"channels found: {found}, named in dataset.json: {expected} ({names}); is a file missing?"
                problems.append(Problem(case.id, case.channels[0].name, what))
        except BadInputError as error:
            problems.append(Problem(case.id, _culprit(case, error), str(error)))
    if not case.label.exists():
        return [*problems, Problem(case.id, case.label.name, "label file is missing")]
    try:
        labels, label_grid = read_labelmap(case.label)
    except BadInputError as error:
        return [*problems, Problem(case.id, case.label.name, str(error))]
    values = np.unique(labels)
    if partial and IGNORE in values:
        values = values[values != IGNORE]
        if not len(values):
            problems.append(Problem(case.id, case.label.name, "is empty: nobody labelled a voxel of it"))
    if unknown := [int(value) for value in values if not 0 <= value < len(dataset.classes)]:
        what = f"holds class values {unknown}, dataset.json knows 0 to {len(dataset.classes) - 1}"
        problems.append(Problem(case.id, case.label.name, what))
    elif not partial and not values.any():
        problems.append(Problem(case.id, case.label.name, "is empty: every voxel is background"))
    if image_grid is not None and (difference := label_difference(label_grid, image_grid)):
        what = f"lies on another grid than its image: {difference}"
        problems.append(Problem(case.id, case.label.name, what))
    return problems


def _culprit(case: Case, error: BadInputError) -> str:
    named = [path.name for path in case.channels if str(path) in str(error)]
    return named[0] if named else case.channels[0].name
