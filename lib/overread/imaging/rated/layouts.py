"""The layouts in which data sets of several raters lie in a folder: each registers itself with `layout`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overread.domain import BadInputError, NotFoundError, Registry
from overread.imaging.rated.dataset import RatedDataset

AUTO = "auto"
Read = Callable[..., RatedDataset]


@dataclass(frozen=True)
class Layout:
    """How a data set lies in a folder.

    Attributes:
        recognises: whether a folder looks like it; reads no voxel.
        read: from the folder, and options by name, to the data set.
        looks_like: what it looks for, in words.
    """

    recognises: Callable[[Path], bool]
    read: Read
    looks_like: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that `read` takes."""
        parameters = inspect.signature(self.read).parameters.values()
        return tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


LAYOUTS: Registry[Layout] = Registry("layout")


def layout(name: str, *, looks_like: str, recognises: Callable[[Path], bool]) -> Callable[[Read], Read]:
    """Register a function that reads a layout; its keyword-only parameters are the layout's options."""

    def register(read: Read) -> Read:
        LAYOUTS.add(name, Layout(recognises, read, looks_like))
        return read

    return register


def read_rated(folder: Path, kind: str = AUTO, **options: Any) -> RatedDataset:
    """List the cases of a folder that several people labelled; no voxel is read.

    Args:
        folder: the data.
        kind: name of the layout; `auto` recognises it.
        options: of the layout, such as `task=2` of QUBIQ or `structure="disc"` of REFUGE2.

    Raises:
        NotFoundError: no folder, no such layout, no layout recognised, or no case in it.
        BadInputError: several layouts recognised, or an option that the layout does not know.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    name = _recognise(folder) if kind == AUTO else kind
    known = LAYOUTS[name]
    if unknown := [option for option in options if option not in known.options]:
        there = ", ".join(known.options) or "none"
        raise BadInputError(f"layout {name} has no option {unknown[0]!r}; there are {there}")
    return known.read(folder, **options)


def _recognise(folder: Path) -> str:
    found = [name for name in LAYOUTS if LAYOUTS[name].recognises(folder)]
    if not found:
        wanted = "\n".join(f"  {name}: {LAYOUTS[name].looks_like}" for name in LAYOUTS)
        raise NotFoundError(f"{folder} holds no layout that is known here:\n{wanted}")
    if len(found) > 1:
        raise BadInputError(f"{folder} looks like {' and '.join(found)}; say which by `kind`")
    return found[0]
