"""A database that cannot be opened is told in a sentence that names it."""

from __future__ import annotations

import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from overread.domain.errors import BadInputError, NotFoundError
from overread.state import audit
from overread.state.database import Database, ensure_unused
from overread.state.failures import DatabaseBusyError, StateError, telling
from overread.state.migration import SCRIPTS


def test_a_path_a_string_and_a_url_are_the_same_file(tmp_path: Path):
    path = tmp_path / "it's 100 % the state?" / "overread #1.db"
    by_path = Database.open(path)
    assert path.is_file()
    assert by_path.name == str(path)
    with by_path.writing() as c:
        audit.append(c, actor="a", action="b", subject="kept", details={}, now=1)
    for where in (str(path), by_path.url):
        same = Database.open(where)
        with same.reading() as c:
            assert [row.subject for row in audit.rows(c)] == ["kept"]
        same.close()
    by_path.close()


def test_a_relative_path_stays_the_same_file_for_a_process_elsewhere(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in ("overread.db", "sqlite:///overread.db"):
        database = Database.open(where)
        assert database.url == f"sqlite:///{tmp_path / 'overread.db'}"
        database.close()


def test_a_file_that_must_exist_is_not_made(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"no database at .*overread\.db; the server makes it"):
        Database.open(tmp_path / "state" / "overread.db", must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_sqlite_lets_readers_and_a_writer_work_at_the_same_time(tmp_path: Path):
    database = Database.open(tmp_path / "overread.db")
    with database.reading() as c:
        assert c.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        # 2 is FULL: what is committed is on the disk.
        assert c.execute(text("PRAGMA synchronous")).scalar() == 2
        assert c.execute(text("PRAGMA busy_timeout")).scalar() == 60_000
    database.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    path = tmp_path / "overread.db"
    path.write_bytes(b"This is a letter, not a database. " * 100)
    with pytest.raises(StateError, match=r"overread\.db is damaged or no SQLite database"):
        Database.open(path)
    assert path.read_bytes().startswith(b"This is a letter")


def test_damage_inside_the_file_is_named(tmp_path: Path):
    path = tmp_path / "overread.db"
    database = Database.open(path)
    with database.writing() as c:
        for number in range(200):
            audit.append(c, actor="a" * 200, action="b", subject="c", details={}, now=number)
        c.execute(text("SELECT 1"))
    assert database.damage() == []
    database.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        # Where rows of the log lie, which opening does not read.
        file.seek(2 * size // 3)
        file.write(b"\xff" * (size // 4))
    damaged = Database.open(path)
    try:
        with pytest.raises(StateError, match=r"overread\.db is damaged"), damaged.reading() as c:
            list(audit.rows(c))
        assert all("overread.db is damaged" in sentence for sentence in damaged.damage())
        assert damaged.damage()
    finally:
        damaged.close()


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path):
    with pytest.raises(StateError, match=f"the database {tmp_path} cannot be opened; is it a folder"):
        Database.open(tmp_path)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match=r"the folder of the database .* cannot be made"):
        Database.open(tmp_path / "state" / "overread.db")


def test_another_that_never_lets_go_is_told(place: str, monkeypatch):
    first = Database.open(place)
    monkeypatch.setattr("overread.state.engines.BUSY_TIMEOUT_S", 0.05)
    second = Database.open(place)
    waiting_is_over = r"overread\.db is held by another process|does not answer as it should: .* lock timeout"
    with first.writing() as c:
        audit.append(c, actor="a", action="b", subject="first", details={}, now=1)
        with pytest.raises(StateError, match=waiting_is_over), second.writing():
            pass
    with second.writing() as c:
        assert audit.append(c, actor="a", action="b", subject="second", details={}, now=2).seq == 2
    first.close()
    second.close()


def test_whether_somebody_could_write_now_is_told_soon_and_nothing_is_written(place: str):
    first, second = Database.open(place), Database.open(place)
    second.ensure_writable(0.05)
    with first.writing(), pytest.raises(StateError, match=r"is held by another process|lock timeout"):
        second.ensure_writable(0.05)
    second.ensure_writable(0.05)
    first.close()
    second.close()


def test_a_file_that_went_away_is_not_made_anew_by_asking(tmp_path: Path):
    database = Database.open(tmp_path / "overread.db")
    database.close()
    (tmp_path / "overread.db").unlink()
    with pytest.raises(StateError, match=r"overread\.db cannot be opened"):
        database.ensure_writable(0.05)
    assert list(tmp_path.glob("overread.db")) == []


def test_a_url_says_how_long_others_are_waited_for(tmp_path: Path):
    first = Database.open(f"sqlite:///{tmp_path / 'overread.db'}?timeout=0.05")
    assert first.name == str(tmp_path / "overread.db")
    # A child process is told the same.
    second = Database.open(first.url)
    with first.writing(), pytest.raises(DatabaseBusyError), second.writing():
        pass
    first.close()
    second.close()


def test_a_file_that_a_server_has_open_is_in_use(tmp_path: Path):
    ensure_unused(tmp_path / "none.db")
    database = Database.open(tmp_path / "overread.db")
    with pytest.raises(DatabaseBusyError, match="is in use: stop the server first"):
        ensure_unused(tmp_path / "overread.db")
    database.close()
    ensure_unused(tmp_path / "overread.db")
    (tmp_path / "rubbish.db").write_bytes(b"no database at all" * 100)
    ensure_unused(tmp_path / "rubbish.db")
    (tmp_path / "folder.db").mkdir()
    ensure_unused(tmp_path / "folder.db")


def test_a_copy_is_what_was_committed_and_of_postgresql_there_is_none(place: str, tmp_path: Path):
    database, copy = Database.open(place), tmp_path / "copies" / "copy.db"
    with database.writing() as c:
        audit.append(c, actor="a", action="b", subject="kept", details={}, now=1)
    with database.writing() as c:
        audit.append(c, actor="a", action="b", subject="under way", details={}, now=1)
        is_copied = database.copy_to(copy)
    database.close()
    assert is_copied == copy.exists() == ("://" not in place)
    if is_copied:
        copied = Database.open(copy)
        with copied.reading() as c:
            assert [row.subject for row in audit.rows(c)] == ["kept"]
            assert audit.verify(c) == []
        copied.close()


def test_a_full_disk_is_told_and_the_transaction_undone(tmp_path: Path):
    database = Database.open(tmp_path / "overread.db")

    def grow(c: Connection) -> None:
        # The limit stands for the end of the disk: SQLite says the same of both.
        c.execute(text("PRAGMA max_page_count=1"))
        for number in range(100):
            audit.append(c, actor="a" * 5000, action="b", subject="c", details={}, now=number)

    with (
        pytest.raises(StateError, match=r"overread\.db cannot grow: the disk is full"),
        database.writing() as c,
    ):
        grow(c)
    with database.reading() as c:
        assert audit.last_row(c)[0] == 0
    database.close()


def test_a_disk_that_fails_is_told():
    with pytest.raises(StateError, match=r"the database state\.db cannot be read or written: the disk fails"):
        with_failing_disk()


def with_failing_disk() -> None:
    with telling("state.db"):
        raise sqlite3.OperationalError("disk I/O error")


def test_a_place_where_sqlite_cannot_let_readers_and_a_writer_work_together_is_refused():
    # SQLite refuses WAL for a database in memory as it does on a network share.
    database = Database(create_engine("sqlite://"))
    with pytest.raises(StateError, match=r"cannot keep .* in WAL mode \(it says memory\); a network share"):
        database._switch_to_wal()
    database.close()


def test_a_database_in_memory_is_refused():
    with pytest.raises(BadInputError, match="sqlite:// names no file"):
        Database.open("sqlite://")


def test_another_kind_of_database_is_refused_without_its_password():
    with pytest.raises(BadInputError, match=r"mysql://me:\*\*\*@host/db is of kind mysql; expected sqlite"):
        Database.open("mysql://me:secret@host/db")


def test_a_url_that_is_none_is_refused():
    with pytest.raises(BadInputError, match="URL cannot be read"):
        Database.open("://")


def test_a_server_that_does_not_answer_is_named_without_its_password():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(StateError, match="does not answer as it should") as caught:
        Database.open(f"postgresql://me:secret@127.0.0.1:{port}/overread")
    assert str(port) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        StateError,
        match=r"psycopg, which is not installed: \S*pip install -c constraints.txt -e '\.\[postgres\]'",
    ):
        Database.open("postgresql://me@127.0.0.1/overread")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_known_by_its_usual_names(postgres: str, scheme: str):
    server = postgres.partition("://")[2]
    database = Database.open(f"{scheme}://{server}/postgres")
    assert database.url == f"postgresql+psycopg://{server}/postgres"
    database.close()


def test_the_migrations_lie_inside_the_package():
    assert (SCRIPTS / "env.py").is_file()
    assert sorted(path.name for path in (SCRIPTS / "versions").glob("*.py"))[0].startswith("0001")
