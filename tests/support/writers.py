"""Processes that write to one database, and can be killed."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from overread.state.audit import append
from overread.state.database import Database
from overread.state.turns import add_turn

# Not `fork`: a lock that another thread of the tests holds at that moment would stay held in the child for ever.
CONTEXT = get_context("forkserver")
# Imported once, by a process without threads; each child then starts in milliseconds.
CONTEXT.set_forkserver_preload(["overread.learning.accepted", "overread.state.turns", "alembic.command"])


def start_writer(place: str, name: str, count: int) -> tuple[BaseProcess, Connection]:
    """A process that opens the database and writes `count` times; each number comes back once it is kept."""
    mine, its = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_write, args=(place, name, count, its), daemon=True)
    process.start()
    its.close()
    return process, mine


def _write(place: str, name: str, count: int, promises: Connection) -> None:
    database = Database.open(place)
    for number in range(count):
        with database.writing() as c:
            now = float(number)
            clicked = {"number": number}
            add_turn(
                c,
                case_id="case",
                client_id=name,
                recipe="heart",
                champion="",
                kind="click",
                payload=clicked,
                now=now,
            )
            append(c, actor=name, action="clicked", subject="case", details=clicked, now=now)
        promises.send(number)
    database.close()
