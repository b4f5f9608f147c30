"""SQLite and PostgreSQL, set up so that transactions of many processes mean the same on either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from overread.domain.errors import BadInputError, install_command
from overread.state.failures import StateError

# A writer waits this long for the others; they hold the database for milliseconds.
BUSY_TIMEOUT_S = 60
# PostgreSQL ends a transaction that does nothing for so long, so that a client that hangs does not hold the others up.
IDLE_TIMEOUT_S = 600
# Key of PostgreSQL's advisory lock: one writer at a time. Any number does that nobody else uses: "overread" as bytes.
WRITER_LOCK = int.from_bytes(b"overread", "big", signed=True)

# Execution option of a connection: its transactions write.
WRITES = "overread_writes"


def url_of(where: Path | str) -> URL:
    """A file's path, or a URL, as SQLAlchemy takes it; SQLite's with an absolute path.

    Raises:
        BadInputError: a URL that is none, or of another kind of database.
    """
    if "://" not in str(where):
        return _sqlite_url(Path(where))
    try:
        url = make_url(str(where))
    except (ArgumentError, ValueError) as error:
        raise BadInputError(
            "the database's URL cannot be read; expected a file's path, "
            "sqlite:////absolute/path, or postgresql://user@host/name"
        ) from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise BadInputError(
            f"the database {url.render_as_string()} is of kind {url.drivername}; expected sqlite or postgresql"
        )
    if not url.database:
        raise BadInputError("sqlite:// names no file: what is kept in memory would be lost at the next start")
    # How long to wait for others, in seconds, is the one thing that may be said.
    said = {key: value for key, value in url.query.items() if key == "timeout"}
    return _sqlite_url(Path(url.database)).set(query=said)


def make_engine(url: URL) -> Engine:
    """An engine whose transactions begin as the connection's option `WRITES` says.

    Raises:
        StateError: PostgreSQL is wanted and its driver is not installed.
    """
    if url.drivername == "sqlite":
        # Threads wait for the database, not for the pool.
        waiting = {} if "timeout" in url.query else {"timeout": BUSY_TIMEOUT_S}
        engine = create_engine(url, max_overflow=-1, connect_args=waiting)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    limits = f"-c lock_timeout={BUSY_TIMEOUT_S}s -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_S}s"
    # What the URL sets comes last and counts.
    options = f"{limits} {url.query.get('options', '')}"
    try:
        engine = create_engine(
            url, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S, connect_args={"options": options}
        )
    except ImportError as error:
        raise StateError(
            f"the database {url.render_as_string()} needs the driver psycopg, which is not installed: "
            f"{install_command('postgres')}"
        ) from error
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _sqlite_url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path.expanduser().resolve()))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Left to itself, Python's driver begins transactions late and not before every statement;
    # with None it begins none, and `_begin_sqlite` does.
    connection.isolation_level = None
    # What is committed is on the disk, also after a power cut.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails when another has written in between;
    # IMMEDIATE waits its turn at the start instead.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(WRITES, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
