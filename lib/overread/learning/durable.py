"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


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
