"""The one database: opened, migrated, read from and written to by server and child processes alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event

from overread.state.schema import METADATA

# A writer waits this long for the others; they hold the database for milliseconds.
BUSY_TIMEOUT_S = 60


class Database:
    """A connection pool with two doors: `reading` and `writing`.

    Attributes:
        url: as SQLAlchemy takes it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.url = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, where: Path | str) -> Database:
        """Open, or make, the database at a file's path or a URL, and bring its schema up to date."""
        url = where if isinstance(where, str) and "://" in where else f"sqlite:///{Path(where).resolve()}"
        if "://" not in str(where):
            Path(where).resolve().parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        METADATA.create_all(engine)
        return cls(engine)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; writers of all processes follow each other. Committed at the end, undone on an error."""
        with self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def default_path(app_dir: Path) -> Path:
    """The database of a MONAI Label app's folder."""
    return Path(app_dir) / "state" / "overread.db"


def _prepare_sqlite(connection, record) -> None:
    # SQLAlchemy's pysqlite driver begins transactions by itself, too late for `BEGIN IMMEDIATE`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
