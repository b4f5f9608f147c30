"""Several processes at one study: each takes pieces that nobody works on."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

import torch

from overread.domain import OverreadError
from overread.studies.uga.study import WAIT_S, Job, Unit, run_study, units_of

Report = Callable[[str, float], None]


def run_with(job: Job, workers: int, report: Report) -> None:
    """Do the study with so many processes; each computes on one core beside the GPU.

    Raises:
        OverreadError: a process ended with an error; what is done is kept. With one worker, the error itself.
    """
    if workers == 1:
        run_study(job, report)
        return
    units = units_of(job, report)
    # A fresh interpreter each: CUDA and forked threads do not go together.
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(job,), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        _watch(processes, units, report)
    finally:
        for process in processes:
            process.terminate()
    if failed := [process for process in processes if process.exitcode not in (0, -15)]:
        raise OverreadError(
            f"{len(failed)} of {workers} processes ended with an error (see above); what is done is kept"
        )


def _watch(processes: Sequence[BaseProcess], units: Sequence[Unit], report: Report) -> None:
    while any(process.is_alive() for process in processes):
        done = sum(unit.is_done for unit in units)
        report(f"{done} of {len(units)} pieces, {len(processes)} processes", done / len(units))
        time.sleep(WAIT_S)
    for process in processes:
        process.join()


def _work(job: Job) -> None:
    torch.set_num_threads(1)
    logging.getLogger("overread").setLevel(logging.WARNING)
    run_study(job)
