"""The data that a recipe was trained on: where they are, what was kept from training, whether they are still the same.

    <models>/<recipe>/central.json    written when `overread train` publishes

Retraining replays these cases, so that what is learnt from local ones does not push them out; the gate judges on those
that were kept from training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import Case, Dataset
from overread.learning.durable import write_json

FILE = "central.json"


@dataclass(frozen=True)
class CentralData:
    """What a recipe was trained on.

    Attributes:
        folder: of the data set, in nnU-Net's raw layout.
        training: ids of the cases that a member learns from (in a cross-validation: all).
        protected: ids of the cases that no member ever learns from.
        sha256: of each image and label file, by its path below `folder`.
    """

    folder: Path
    training: tuple[str, ...]
    protected: tuple[str, ...]
    sha256: dict[str, str]


def remember_central(
    recipe_folder: Path, data_folder: Path, dataset: Dataset, protected: Collection[str]
) -> CentralData:
    """Write down what the champion of `recipe_folder` was trained on.

    Args:
        recipe_folder: of the champion store.
        data_folder, dataset, protected: as in `take_stock`.
    """
    central = take_stock(data_folder, dataset, protected)
    write_central(recipe_folder, central)
    return central


def write_central(recipe_folder: Path, central: CentralData) -> None:
    """Write `central.json`, whole or not at all."""
    recipe_folder.mkdir(parents=True, exist_ok=True)
    write_json(recipe_folder / FILE, {**asdict(central), "folder": str(central.folder)})


def protected_of(description: Mapping[str, Any]) -> set[str]:
    """Ids of the cases that no member of a trained ensemble learnt from, by its `ensemble.json`."""
    return set.intersection(*(set(ids) for ids in description["plan"]["held_out"]))


def take_stock(data_folder: Path, dataset: Dataset, protected: Collection[str]) -> CentralData:
    """What there is. Reads all files.

    Args:
        data_folder: what `dataset` was read from.
        dataset: all its cases, with those that were held out.
        protected: ids of the cases that no member learnt from.
    """
    ids = {case.id for case in dataset.cases}
    if strangers := sorted(set(protected) - ids):
        raise BadInputError(
            f"case {strangers[0]} was held out when the champion was trained, and is not in {data_folder}: are these "
            "the data that it was trained on?"
        )
    return CentralData(
        folder=Path(data_folder).resolve(),
        training=tuple(sorted(ids - set(protected))),
        protected=tuple(sorted(protected)),
        sha256={
            path.relative_to(data_folder).as_posix(): sha256_of(path)
            for case in dataset.cases
            for path in files_of(case)
        },
    )


def read_central(recipe_folder: Path) -> CentralData:
    """What the recipe was trained on.

    Raises:
        NotFoundError: nobody wrote it down; says what to do.
        BadInputError: the file is damaged.
    """
    path = Path(recipe_folder) / FILE
    remedy = f"name them with `overread central {path.parent.name} --data DIR`, or train again with `overread train`"
    if not path.exists():
        raise NotFoundError(f"recipe {path.parent.name!r} does not know the data it was trained on: {remedy}")
    try:
        stored = json.loads(path.read_text())
        return CentralData(
            folder=Path(stored["folder"]),
            training=tuple(stored["training"]),
            protected=tuple(stored["protected"]),
            sha256=dict(stored["sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}): {remedy}") from error


def changed(central: CentralData, progress: Callable[[float], None] | None = None) -> list[str]:
    """Files that are gone or not what they were, by their path below the folder. Reads all of them.

    Args:
        central: from `read_central`.
        progress: hears the share that is done.
    """
    different = []
    for index, (name, expected) in enumerate(sorted(central.sha256.items())):
        path = central.folder / name
        if not path.exists() or sha256_of(path) != expected:
            different.append(name)
        if progress is not None:
            progress((index + 1) / len(central.sha256))
    return different


def files_of(case: Case) -> tuple[Path, ...]:
    """Image files in channel order, then the label."""
    return (*case.channels, case.label)


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
