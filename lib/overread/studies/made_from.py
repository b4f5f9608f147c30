"""What a prepared set was made from: names, sizes and times of its files, so that changed files are noticed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# Size in bytes and time of the last change in nanoseconds, by name; a file that is not there has none.
Stamps = dict[str, list[int]]
# So many files are named, of each kind of change.
NAMED = 3


def stamps_below(folder: Path, apart: Iterable[Path] = ()) -> Stamps:
    """Of all files below a folder, by their names there; hidden ones do not count.

    Args:
        apart: folders that do not count either.
    """
    left_out = {path.resolve() for path in apart}
    found: Stamps = {}
    for here, folders, files in os.walk(folder.resolve()):
        folders[:] = [
            name for name in folders if not name.startswith(".") and Path(here, name) not in left_out
        ]
        paths = [Path(here, name) for name in files if not name.startswith(".")]
        found |= {path.relative_to(folder.resolve()).as_posix(): _stamp(path) for path in paths}
    return dict(sorted(found.items()))


def stamps_of(sources: Iterable[Any]) -> Stamps:
    """Of the files that sources of cases name, by their names below the folder that holds them all.

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
    return {file.relative_to(top).as_posix(): _stamp(file) for file in sorted(files)}


def changes(before: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> str:
    """What is another than before, in words that name files; empty where nothing is."""
    kinds = {
        "changed": [name for name in before if name in now and list(before[name]) != list(now[name])],
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _stamp(path: Path) -> list[int]:
    if not path.exists():
        return []
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _paths_in(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _paths_in(getattr(value, each.name))
