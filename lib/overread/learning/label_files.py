"""Files of accepted labels: their names, their sidecars, and how they get to the disk for good.

    <studies>/accepted/<case>/<rater>-<revision>.nii.gz     class indices, 255 where nobody labelled
    <studies>/accepted/<case>/<rater>-<revision>.json       where it came from: the row of the database

A name that begins with a dot is a file that was being written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.state.labels import LabelRow

SUFFIX = ".nii.gz"
SIDECAR_SUFFIX = ".json"
LOCK = ".lock"
PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9_])?")
LONGEST_STEM = 60


def file_name(name: str) -> str:
    """The name itself where every file system takes it; else what is left of it, and a hash so that no two meet."""
    if PLAIN.fullmatch(name):
        return name
    left = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:LONGEST_STEM].strip("-")
    return f"{left}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def sidecar_of(label: Path) -> Path:
    """The sidecar's path beside a label's."""
    return label.with_name(label.name.removesuffix(SUFFIX) + SIDECAR_SUFFIX)


def write_sidecar(label: Path, row: LabelRow) -> None:
    """Write a label's provenance beside it, whole and down to the disk."""
    values: dict[str, Any] = asdict(row)
    del values["id"]
    path = sidecar_of(label)
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(values, indent=2, allow_nan=False))
    sync(draft)
    draft.replace(path)


def read_sidecar(path: Path) -> LabelRow:
    """What a sidecar says. Raises BadInputError where it cannot be understood."""
    try:
        values = json.loads(path.read_text())
        known = {field.name for field in fields(LabelRow)} - {"id"}
        return LabelRow(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} does not tell where its label came from: {error}") from error


def sha256_of(path: Path) -> str:
    """Hash of a file's content. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def at_work(folder: Path, alone: bool = False) -> Iterator[None]:
    """Several may write below a folder at a time; who cleans up is alone there. A killed process lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
