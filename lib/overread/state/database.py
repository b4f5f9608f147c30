"""The one database: opened, migrated, read from and written to by server and child processes alike."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine

from overread.domain.errors import NotFoundError
from overread.state.engines import BUSY_TIMEOUT_S, WRITER_LOCK, WRITES, make_engine, url_of
from overread.state.failures import DatabaseBusyError, StateError, telling
from overread.state.migration import upgrade, version_of
from overread.state.schema import VERSION

# Where a process finds the URL that it was not told: a password does not belong on a command line.
DATABASE_VARIABLE = "OVERREAD_DATABASE"


class Database:
    """A connection pool with two doors: `reading` and `writing`. Threads may share it; a process opens its own.

    Attributes:
        url: as `open` takes it, for another process; may carry a password.
        name: the file's path, or the URL without the password: for sentences.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()
        self._mine = threading.local()
        self.url = engine.url.render_as_string(hide_password=False)
        self.name = _name(engine.url)

    @classmethod
    def open(cls, where: Path | str, must_exist: bool = False) -> Database:
        """Open, or make, the database at a file's path or a URL, and bring its schema up to date.

        Args:
            where: a path is SQLite's file; a URL is `sqlite:////…` or `postgresql://…`.
            must_exist: do not make an SQLite file that is not there.

        Raises:
            BadInputError: the URL is none, or of another kind of database.
            NotFoundError: the file must exist and does not.
            StateError: the database is damaged, cannot be reached, or was written by a newer Overread.
        """
        url = url_of(where)
        if url.drivername == "sqlite" and url.database:
            _prepare_folder(Path(url.database), must_exist)
        database = cls(make_engine(url))
        try:
            with telling(database.name):
                database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database, whatever others write meanwhile; it cannot write."""
        with telling(self.name), self._engine.connect() as connection:
            if not self._is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                yield connection
                return
            connection.exec_driver_sql("PRAGMA query_only=ON")
            try:
                yield connection
            finally:
                # The pool hands the connection to a writer next.
                connection.rollback()
                connection.exec_driver_sql("PRAGMA query_only=OFF")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; writers of all processes follow each other. Committed at the end, undone on an error.

        Raises:
            StateError: others held the database too long, or it failed.
            RuntimeError: this thread is writing already, and would wait for itself.
        """
        if getattr(self._mine, "is_writing", False):
            raise RuntimeError("writing() within writing(): hand the connection down instead")
        self._mine.is_writing = True
        try:
            # Threads of one process queue here, where waiting is fair and costs nothing.
            with self._turn, telling(self.name), self._engine.connect() as connection:
                connection.execution_options(**{WRITES: True})
                with connection.begin():
                    yield connection
        finally:
            self._mine.is_writing = False

    def ensure_writable(self, patience_s: float) -> None:
        """Return when a writer could begin now; nothing is written.

        Raises:
            StateError: none could within this time, or the database failed.
        """
        with telling(self.name):
            if self._is_sqlite:
                assert self._engine.url.database is not None
                file = Path(self._engine.url.database)
                # A connection would make a file that is gone.
                with closing(
                    sqlite3.connect(f"{file.as_uri()}?mode=rw", timeout=patience_s, uri=True)
                ) as own:
                    own.isolation_level = None
                    own.execute("BEGIN IMMEDIATE")
                    own.execute("ROLLBACK")
                return
            with self._engine.connect() as connection, connection.begin():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(1000 * patience_s)}")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")

    def copy_to(self, file: Path) -> bool:
        """Copy SQLite's file as it is at one moment, while others write; False, without a copy, for PostgreSQL.

        Args:
            file: must not exist.
        """
        if not self._is_sqlite:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with telling(self.name), self.reading() as c, closing(sqlite3.connect(file)) as target:
            source = c.connection.dbapi_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(target)
        return True

    def damage(self) -> list[str]:
        """What SQLite finds broken in its file, a sentence each; empty where it is whole, and for PostgreSQL.

        Raises:
            DatabaseBusyError: others held the database too long.
        """
        if not self._is_sqlite:
            return []
        try:
            with self.reading() as c:
                found = [row[0] for row in c.exec_driver_sql("PRAGMA quick_check(20)")]
        except DatabaseBusyError:
            raise
        except StateError as error:
            # So damaged that not even the check reads on.
            return [str(error)]
        return [f"the database {self.name} is damaged: {said}" for said in found if said != "ok"]

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def _prepare(self) -> None:
        if self._is_sqlite:
            self._switch_to_wal()
        with self.reading() as c:
            version = version_of(c)
        if version != VERSION:
            with self.writing() as c:
                upgrade(c, self.name)

    def _switch_to_wal(self) -> None:
        """Readers and a writer at the same time. The file remembers it.

        SQLite does not wait for others when it switches, whatever the timeout, so that is done here.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        connection = self._engine.raw_connection()
        try:
            while True:
                try:
                    cursor = connection.cursor()
                    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                    cursor.close()
                    break
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        finally:
            connection.close()
        if mode != "wal":
            raise StateError(
                f"SQLite cannot keep {self.name} in WAL mode (it says {mode}); a network share cannot hold it: "
                "use a folder of this machine, or PostgreSQL"
            )


def ensure_unused(file: Path) -> None:
    """Return where no other process has SQLite's file open; one that is not there, or is damaged, is unused.

    Its write-ahead log is merged into it.

    Raises:
        DatabaseBusyError: one has.
    """
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", timeout=0.5, uri=True)) as own:
            # Only who has the file alone may leave WAL mode.
            own.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise StateError(f"the database {file} cannot be opened: {error}") from error
        raise DatabaseBusyError(f"the database {file} is in use: stop the server first") from error
    except sqlite3.DatabaseError:
        return


def default_path(app_dir: Path) -> Path:
    """The database of a MONAI Label app's folder."""
    return Path(app_dir) / "state" / "overread.db"


def _name(url: URL) -> str:
    if url.drivername == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def _prepare_folder(file: Path, must_exist: bool) -> None:
    if must_exist and not file.is_file():
        raise NotFoundError(f"there is no database at {file}; the server makes it when it first starts")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"the folder of the database {file} cannot be made: {error.strerror}") from error
