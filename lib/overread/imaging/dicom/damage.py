"""Files that break their own rules: whatever a library raises on them becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from overread.domain import BadInputError, OverreadError


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Raise BadInputError for every error within that is not one of ours: pydicom raises many kinds."""
    try:
        yield
    except OverreadError:
        raise
    except Exception as error:
        raise BadInputError(f"{what} is damaged ({type(error).__name__}: {first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no more is known")
