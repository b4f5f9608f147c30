"""Whatever happens to its writers, the database keeps what was committed, all of it and nothing else."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from overread.state import audit, turns
from overread.state.database import Database, default_path
from overread.state.failures import StateError
from support.writers import start_writer

WRITES = 25
# For eight writers that take turns on a busy machine.
PATIENCE_S = 60


def until_it_ends(promises: Connection) -> list[int]:
    """Everything that a writer still says; it may end, or be killed, in the middle of a message."""
    said = []
    try:
        while promises.poll(PATIENCE_S):
            said.append(promises.recv())
    except (EOFError, OSError):
        return said
    raise AssertionError("the writer neither writes nor ends")


def add(database: Database, number: int) -> None:
    with database.writing() as c:
        audit.append(c, actor="test", action="counted", subject=str(number), details={}, now=1.0)


def subjects(database: Database) -> list[str]:
    with database.reading() as c:
        return [row.subject for row in audit.rows(c)]


def test_what_is_written_is_there_when_it_is_opened_again(place: str):
    first = Database.open(place)
    add(first, 7)
    first.close()
    again = Database.open(place)
    assert subjects(again) == ["7"]
    again.close()


def test_the_url_opens_the_same_database(database: Database):
    add(database, 7)
    same = Database.open(database.url)
    assert subjects(same) == ["7"]
    assert same.url == database.url
    same.close()


def test_an_error_undoes_the_whole_transaction(database: Database):
    def fail() -> None:
        with database.writing() as c:
            audit.append(c, actor="test", action="counted", subject="lost", details={}, now=1.0)
            raise KeyError("something went wrong")

    with pytest.raises(KeyError, match="went wrong"):
        fail()
    assert subjects(database) == []
    add(database, 1)
    assert subjects(database) == ["1"]


def test_a_reader_sees_one_state_while_others_write(database: Database):
    add(database, 1)
    with database.reading() as c:
        assert len(list(audit.rows(c))) == 1
        add(database, 2)
        assert len(list(audit.rows(c))) == 1
    assert subjects(database) == ["1", "2"]


def test_a_reader_cannot_write_and_its_connection_can_afterwards(database: Database):
    with pytest.raises((StateError, DBAPIError), match=r"readonly|read-only"), database.reading() as c:
        audit.append(c, actor="test", action="counted", subject="lost", details={}, now=1.0)
    add(database, 1)
    assert subjects(database) == ["1"]


def test_writing_within_writing_is_refused_at_once(database: Database):
    with pytest.raises(RuntimeError, match="hand the connection down"), database.writing():
        add(database, 1)
    add(database, 2)
    assert subjects(database) == ["2"]


def test_threads_write_without_losing_a_row(database: Database):
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: add(database, number), range(64)))
    assert sorted(map(int, subjects(database))) == list(range(64))
    with database.reading() as c:
        assert audit.verify(c) == []


def test_eight_processes_open_and_write_a_new_database_without_losing_a_row(place: str):
    writers = [start_writer(place, f"writer {number}", WRITES) for number in range(8)]
    for process, promises in writers:
        assert until_it_ends(promises) == list(range(WRITES))
        process.join(timeout=60)
        assert process.exitcode == 0
    database = Database.open(place)
    with database.reading() as c:
        assert audit.verify(c) == []
        assert audit.last_row(c)[0] == 8 * WRITES
        logged = list(audit.rows(c))
        for number in range(8):
            name = f"writer {number}"
            assert [turn.payload["number"] for turn in turns.turns_of(c, "case", name)] == list(range(WRITES))
            assert [row.details["number"] for row in logged if row.actor == name] == list(range(WRITES))
    database.close()


def test_a_writer_killed_at_any_moment_leaves_whole_transactions(place: str):
    moments = random.Random(3)
    Database.open(place).close()
    before = 0
    for _ in range(20):
        process, promises = start_writer(place, "writer", 1_000_000)
        # The first answer has been waited for, or nothing would have been written at all.
        promised = [promises.recv()]
        time.sleep(moments.random() * 0.05)
        process.kill()
        promised += until_it_ends(promises)
        process.join(timeout=60)
        assert process.exitcode == -signal.SIGKILL
        database = Database.open(place)
        with database.reading() as c:
            kept = [turn.payload["number"] for turn in turns.turns_of(c, "case")]
            assert [row.details["number"] for row in audit.rows(c)] == kept
            assert audit.verify(c) == []
        assert kept[before:] == list(range(len(kept) - before))
        # All that was promised is there; of the last write nobody knows whether it was.
        assert len(kept) - before - len(promised) in (0, 1)
        before = len(kept)
        assert database.damage() == []
        database.close()


def test_an_app_keeps_its_database_in_its_own_folder():
    assert default_path(Path("apps/radiology")) == Path("apps/radiology/state/overread.db")
