"""What the processes that score in the background have in common: arguments, lines of progress, and when they end."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from overread.domain import OverreadError
from overread.ensemble.compute import choose_device, leave_a_core
from overread.lifeline import when_cut
from overread.queue.backlog import ScoringProgress, StoppedError
from overread.state.database import DATABASE_VARIABLE, Database

# Scoring gives way to whoever waits for an answer.
NICENESS = 15

# Loads the champion; database, device and the signal to end, to the reports of the work.
Work = Callable[[argparse.Namespace, Database, torch.device, threading.Event], Iterator[ScoringProgress]]


def parser(program: str, description: str, champion_help: str, cases_help: str) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument(
        "--database",
        default=os.environ.get(DATABASE_VARIABLE),
        help=f"file or URL; {DATABASE_VARIABLE} if not given",
    )
    made.add_argument("--recipe", required=True)
    made.add_argument("--champion", type=Path, help=champion_help)
    made.add_argument("--cases", required=True, type=Path, help=cases_help)
    made.add_argument("--progress", type=Path, help="keep the latest progress in this file as well")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    made.add_argument("--threads", type=int, help="all cores but one if not given")
    return made


def run(made: argparse.ArgumentParser, arguments: list[str] | None, work: Work) -> int:
    """Run the process; 0 when all is scored or nobody listens, 1 with a sentence on standard error otherwise."""
    chosen = made.parse_args(arguments)
    if not chosen.database:
        made.error(f"give --database, or set {DATABASE_VARIABLE}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.nice(NICENESS)
    leave_a_core(chosen.threads)
    stopped = threading.Event()
    database: Database | None = None
    try:
        database = Database.open(chosen.database)
        reports = work(chosen, database, choose_device(chosen.device), stopped)
        # Not before: loading the champion imports what takes as long as all the rest, and there is nothing to keep yet.
        when_cut(stopped.set)
        for progress in reports:
            _report(progress, chosen.progress)
    except (StoppedError, BrokenPipeError):
        # Python would complain once more about the closed pipe when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OverreadError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if database is not None:
            database.close()
    return 0


def _report(progress: ScoringProgress, file: Path | None) -> None:
    line = json.dumps(progress.__dict__)
    print(line, flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_text(line + "\n")
        beside.replace(file)
