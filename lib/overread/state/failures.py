"""What a database says when it fails, as a sentence for the one who has to mend it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError

from overread.domain.errors import OverreadError


class StateError(OverreadError):
    """The database cannot be opened, read or written (HTTP 503)."""


class DatabaseBusyError(StateError):
    """Another process held the database for too long (HTTP 503)."""


class DatabaseFullError(StateError):
    """The database cannot grow, as its disk is full (HTTP 507)."""


# What SQLite says, and what it means for the file.
_SQLITE = {
    "file is not a database": "is damaged or no SQLite database; put a copy of it back, or move it away to start anew",
    "disk image is malformed": "is damaged; put a copy of it back, or move it away to start anew",
    "unable to open database file": "cannot be opened; is it a folder, or is writing there not allowed?",
    "database is locked": "is held by another process; does one hang in the middle of writing?",
    "readonly database": "cannot be written; is writing there not allowed?",
    "database or disk is full": "cannot grow: the disk is full",
    "disk i/o error": "cannot be read or written: the disk fails, or it is a network share",
}
_KINDS = {"database is locked": DatabaseBusyError, "database or disk is full": DatabaseFullError}


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Turn failures of the database `name` into a StateError; a mistake in a statement passes as it is."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = " ".join(str(cause).split())
        if isinstance(cause, sqlite3.Error):
            remedy = next((remedy for words, remedy in _SQLITE.items() if words in said.lower()), None)
            if remedy is None:
                raise
            kind = next((kind for words, kind in _KINDS.items() if words in said.lower()), StateError)
            raise kind(f"the database {name} {remedy} (SQLite: {said})") from error
        if not isinstance(error, OperationalError):
            raise
        raise StateError(f"the database {name} does not answer as it should: {said}") from error
