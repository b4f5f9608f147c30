"""Files of a published data set by the name that slide and outlines share."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from overread.domain import BadInputError
from overread.imaging.dataset import Problem

SLIDE_ENDINGS = (".tif", ".tiff")


def named_files(
    folder: Path, pattern: re.Pattern[str], endings: Iterable[str]
) -> tuple[dict[str, Path], list[Problem]]:
    """The files anywhere below a folder whose name without the ending matches, by that name in small letters.

    Returns:
        The first of each name by path; the others are problems.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        name = path.stem.lower()
        if path.suffix.lower() not in endings or not pattern.fullmatch(name) or not path.is_file():
            continue
        if name in found:
            what = f"lies there twice, as {_below(folder, found[name])} and as {_below(folder, path)}"
            problems.append(Problem(name, path.name, what))
        else:
            found[name] = path
    return found, problems


def orphans(outlines: dict[str, Path], slides: Iterable[str], folder: Path) -> list[Problem]:
    """Outlines of slides that are not there."""
    known = set(slides)
    return [
        Problem(name, _below(folder, path), "outlines a slide that is not there")
        for name, path in outlines.items()
        if name not in known
    ]


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a table, header included, cells without the spaces around them.

    Raises:
        BadInputError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
