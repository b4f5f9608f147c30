"""What a prepared set was made from: its files by name, size, time and content, so that changes are noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# Size in bytes, time of the last change in nanoseconds and, unless it is large, SHA-256 of the content, by name; a file
# that is not there has none.
Stamps = dict[str, list[int | str]]
# Of larger files, such as slides, size and time have to do.
LARGEST_READ = 64 * 2**20
# So many files are named, of each kind of change.
NAMED = 3


def files_below(folder: Path, apart: Iterable[Path] = ()) -> dict[str, Path]:
    """All files below a folder, by their names there; hidden ones do not count.

    Args:
        apart: folders that do not count either.
    """
    left_out = {path.resolve() for path in apart}
    found: dict[str, Path] = {}
    for here, folders, files in os.walk(folder.resolve()):
        folders[:] = [
            name for name in folders if not name.startswith(".") and Path(here, name) not in left_out
        ]
        paths = [Path(here, name) for name in files if not name.startswith(".")]
        found |= {path.relative_to(folder.resolve()).as_posix(): path for path in paths}
    return dict(sorted(found.items()))


def files_of(sources: Iterable[Any]) -> dict[str, Path]:
    """The files that sources of cases name, by their names below the folder that holds them all.

    So the data may be moved as a whole. Of a folder the files in it count.

    Args:
        sources: frozen values with paths in them, at any depth.
    """
    named = {path.absolute() for source in sources for path in _paths_in(source)}
    files = {
        file
        for path in named
        for file in (path.iterdir() if path.is_dir() else (path,))
        if not file.name.startswith(".") and not file.is_dir()
    }
    if not files:
        return {}
    top = os.path.commonpath([file.parent for file in files])
    return {file.relative_to(top).as_posix(): file for file in sorted(files)}


def stamps(files: Mapping[str, Path]) -> Stamps:
    """What to know the files by later; reads all that are not large."""
    return {name: [*_size_and_time(path), *_content(path)] for name, path in files.items()}


def changes(before: Mapping[str, list[int | str]], now: Mapping[str, Path]) -> str:
    """What is another than before, in words that name files; empty where nothing is.

    A file of the same size and time is the same; one of another time is read, as data that were copied or unpacked
    again often have times of their own.
    """
    kinds = {
        "changed": [name for name in before if name in now and not _is_same(before[name], now[name])],
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _is_same(before: list[int | str], path: Path) -> bool:
    now, content = _size_and_time(path), before[2:]
    # Earlier versions kept no content.
    return before[:2] == now or (before[:1] == now[:1] and bool(content) and content == _content(path))


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _size_and_time(path: Path) -> list[int | str]:
    if not path.exists():
        return []
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _content(path: Path) -> list[int | str]:
    if not path.exists() or path.stat().st_size > LARGEST_READ:
        return []
    with path.open("rb") as file:
        return [hashlib.file_digest(file, "sha256").hexdigest()]


def _paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _paths_in(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _paths_in(getattr(value, each.name))
