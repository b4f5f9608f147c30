"""Simulate before you annotate: which strategy is worth asking by, on cases whose labels are known?

The queue, the label store, the trainer and the gate of the server run as they are; a robot rater answers. For each
seed patients are drawn anew into test, start, protected and waiting cases (`cases`), one starter is trained
and shared by all strategies, and each strategy then asks `step` cases a round (`arm`).

The two studies of the documentation, with the commands that made them, stand in `docs/results/queue.md`.

The work folder keeps every finished round under a key of all that decides it, so that a study that was stopped goes on,
and one with more seeds or strategies computes only what is new:

    <work>/<key>/seed_0/split.json      who is what
    <work>/<key>/seed_0/central/        start and protected cases in nnU-Net's raw layout
    <work>/<key>/seed_0/starter/        the first champion
    <work>/<key>/seed_0/STRATEGY/03/    the third round: round.json, and of the last round the whole state
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

import torch

from overread.domain import BadInputError
from overread.queue.strategies import STRATEGIES
from overread.studies.simulation.arm import make_starter, run_arm
from overread.studies.simulation.protocol import Study, finished_rows, row_file
from overread.studies.simulation.statistics import Row

# How often a change of the files is looked for, so that the bar moves.
LOOK_S = 0.5


@dataclass(frozen=True)
class SimulationProgress:
    """Rounds finished (those of earlier runs too), rounds in all, and the newest finished round."""

    done: int
    total: int
    newest: Row | None


def simulate(
    study: Study,
    strategies: tuple[str, ...],
    seeds: int,
    jobs: int = 1,
    progress: Callable[[SimulationProgress], None] | None = None,
) -> list[Row]:
    """Run what is not there yet, and return all rows by seed, strategy and round.

    A seed's starter is one job, and so is every strategy of a seed, on one core each; several at a time have a process
    each.

    Raises:
        NotFoundError: a strategy is not known.
        BadInputError: numbers that do not fit each other or the data.
    """
    for name in strategies:
        STRATEGIES[name]
    if not strategies or len(set(strategies)) != len(strategies):
        raise BadInputError(
            f"strategies are {', '.join(strategies) or 'none'}, expected different names, one or more"
        )
    report = progress or (lambda _: None)
    wanted = [(seed, name) for seed in range(seeds) for name in strategies]

    def tell() -> None:
        rows = [row for seed, name in wanted for row in finished_rows(study, seed, name)]
        newest = max(
            rows,
            key=lambda row: row_file(study, row.seed, row.strategy, row.round).stat().st_mtime,
            default=None,
        )
        report(SimulationProgress(len(rows), len(wanted) * (study.protocol.rounds + 1), newest))

    tell()
    missing = [pair for pair in wanted if len(finished_rows(study, *pair)) <= study.protocol.rounds]
    if jobs == 1:
        _run_here(study, missing, tell)
    elif missing:
        _run_side_by_side(study, missing, jobs, tell)
    return [row for seed, name in wanted for row in finished_rows(study, seed, name)]


def _run_here(study: Study, pairs: list[tuple[int, str]], tell: Callable[[], None]) -> None:
    """One job after the other, in this process and on one core, as several would have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed, name in pairs:
            make_starter(study, seed)
            for _ in run_arm(study, seed, name):
                tell()
    finally:
        torch.set_num_threads(threads)


def _run_side_by_side(
    study: Study, pairs: list[tuple[int, str]], jobs: int, tell: Callable[[], None]
) -> None:
    """First each seed's starter, then its strategies; the first error ends the study."""
    # `spawn`: threads of PyTorch do not survive a fork.
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core, initargs=(os.getpid(),)
    ) as pool:
        # What follows each job: the strategies that its starter is for.
        running: dict[Future[None], list[tuple[int, str]]] = {}
        for seed in dict.fromkeys(seed for seed, _ in pairs):
            running[pool.submit(make_starter, study, seed)] = [pair for pair in pairs if pair[0] == seed]
        try:
            while running:
                done, _ = wait(running, LOOK_S, FIRST_COMPLETED)
                for job in done:
                    following = running.pop(job)
                    job.result()
                    running |= {pool.submit(_arm, study, seed, name): [] for seed, name in following}
                tell()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _arm(study: Study, seed: int, strategy: str) -> None:
    for _ in run_arm(study, seed, strategy):
        pass


def _one_core(parent: int) -> None:
    """Compute on one core, and end when the study was killed: its rounds would go on unseen."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
