"""Processes that write to one database, and can be killed."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from overread.state.audit import append
from overread.state.database import Database
from overread.state.turns import add_turn

# Real processes, started in milliseconds; call it while no database is open, which the child would inherit.
_context = get_context("fork")


def start_writer(place: str, name: str, count: int) -> tuple[BaseProcess, Connection]:
    """A process that opens the database and writes `count` times; each number comes back once it is kept."""
    mine, its = _context.Pipe(duplex=False)
    process = _context.Process(target=_write, args=(place, name, count, its), daemon=True)
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
