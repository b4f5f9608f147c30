"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from overread.domain import BadInputError, OverreadError


def write_json_durably(path: Path, content: Any) -> None:
    """Replace a JSON file in one step; a reader sees the old or the new one, whole. One writer at a time.

    Raises ValueError for NaN and infinity, which are no JSON.
    """
    write_json(path, content, durably=True)


def write_json(path: Path, content: Any, *, durably: bool = False) -> None:
    """The same for what a power cut may take back."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        if durably:
            os.fsync(file.fileno())
    part.replace(path)
    if durably:
        sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path, what: str) -> Iterator[Path]:
    """A hidden folder to fill; it gets its name when the block ends well, and is removed when it does not.

    Args:
        folder: must not exist, or be empty.
        what: is made, for the sentences.

    Raises:
        BadInputError: something is there already. OverreadError: a file cannot be read or written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder} is there already; {what} goes into a new folder")
    part = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise OverreadError(f"{what} was not made: {error.strerror} ({error.filename or folder})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; all of it is on the disk when this returns."""
    shutil.copytree(source, target, copy_function=_copy_file)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk. Does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    _sync(folder)


def _copy_file(source: str, target: str) -> str:
    shutil.copy2(source, target)
    _sync(Path(target))
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
