"""What lies in the studies folder, compared with what the store's index says."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from monailabel.datastore.local import DataModel, ImageLabelModel


def reconciled(
    objects: Mapping[str, ImageLabelModel], images: Path, labels: Path, suffixes: Sequence[str]
) -> dict[str, ImageLabelModel]:
    """The index as the files say it; equal to `objects` where nothing came or went.

    One listing per folder, whatever the number of cases: MONAI Label asks the disk for every file.

    Args:
        objects: the index as it is; untouched.
        images: folder of the images, whose subfolders are not looked into.
        labels: folder with one subfolder per tag.
        suffixes: of files that are images, or labels that were put there by hand.
    """
    present = file_names(images)
    found = {
        case: entry.model_copy(update={"labels": dict(entry.labels)})
        for case, entry in objects.items()
        if case + entry.image.ext in present
    }
    for name in sorted(present):
        case, suffix = split_name(name, suffixes)
        if suffix and case not in found:
            found[case] = ImageLabelModel(image=newcomer(name, suffix))
    return with_labels(found, labels, suffixes)


def with_labels(
    found: dict[str, ImageLabelModel], labels: Path, suffixes: Sequence[str]
) -> dict[str, ImageLabelModel]:
    """The same index with the labels that lie below a folder, and no others. Changes the entries it is given."""
    kept: dict[str, set[str]] = {
        entry.name: file_names(Path(entry.path)) for entry in os.scandir(labels) if entry.is_dir()
    }
    for case, entry in found.items():
        for tag, label in list(entry.labels.items()):
            if case + label.ext not in kept.get(tag, ()):
                del found[case].labels[tag]
    for tag, names in kept.items():
        for name in sorted(names):
            case, suffix = split_name(name, suffixes)
            if suffix and case in found and tag not in found[case].labels:
                found[case].labels[tag] = newcomer(name, suffix)
    return found


def file_names(folder: Path) -> set[str]:
    """Names of the files in a folder."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def split_name(name: str, suffixes: Sequence[str]) -> tuple[str, str]:
    """Case and suffix of a file's name; an empty suffix where it is no image's or label's, or a hidden file."""
    suffix = max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default="")
    case = name[: len(name) - len(suffix)]
    return (case, suffix) if case and not case.startswith(".") else (case, "")


def newcomer(name: str, suffix: str) -> DataModel:
    """The entry of a file that nobody announced."""
    return DataModel(info={"ts": int(time.time()), "name": name}, ext=suffix)
