"""The same tests run over both kinds of database."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from overread.state.database import Database
from support.postgres import postgres_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a running server."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database may be made that is not there yet."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "overread.db")
    server = request.getfixturevalue("postgres")
    # A schema each: a database each would cost 7 MB and 300 files.
    schema = f"test{next(_numbers)}"
    engine = create_engine(f"{server}/postgres")
    with engine.begin() as c:
        c.exec_driver_sql(f"CREATE SCHEMA {schema}")
    engine.dispose()
    return f"{server}/postgres?options=-csearch_path%3D{schema}"


@pytest.fixture
def database(place: str) -> Iterator[Database]:
    """An open database with nothing in it."""
    opened = Database.open(place)
    yield opened
    opened.close()
