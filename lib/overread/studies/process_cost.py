"""What a command costs as a whole: wall and processor seconds, and peak memory of all its processes together."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from overread.domain import OverreadError

# Reading a process's shared memory makes the kernel walk its pages: oftener would slow what is measured.
POLL_S = 0.25


@dataclass(frozen=True)
class ProcessCost:
    """Cost of one command.

    Attributes:
        wall_s: from start to end, imports included.
        cpu_s: user and system time of the process and its children.
        peak_mb: largest sum of the processes' memory, polled; pages that they share count once.
        output: what it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def measure_command(command: Sequence[str], environment: dict[str, str] | None = None) -> ProcessCost:
    """Run a command to its end.

    Args:
        environment: variables to set beside those of this process.

    Raises:
        OverreadError: the command failed; the message carries its last lines.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        watched = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory_of_tree(watched))
            time.sleep(POLL_S)
        wall_s = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        last = "\n".join(text.splitlines()[-8:])
        raise OverreadError(f"{' '.join(command[:4])} ... ended with exit code {process.returncode}:\n{last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ProcessCost(wall_s, cpu_s, peak / 2**20, text)


def _memory_of_tree(process: psutil.Process) -> int:
    """Bytes of a process and its descendants; 0 for one that has just ended."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_memory(member) for member in family)


def _memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", memory.rss))
