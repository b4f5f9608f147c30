"""A child whose parent is gone ends at once, also while it imports; one that listens for itself ends as it wants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.servers import ROOT

# No other thread of Python runs meanwhile, as when a large library is loaded.
IMPORTS_FOR_LONG = """
import ctypes
print("importing", flush=True)
ctypes.PyDLL(None).sleep(600)
"""
LISTENS = """
import sys, threading
from overread.lifeline import when_cut
cut = threading.Event()
when_cut(cut.set)
print("listening", *sys.argv[1:], __name__, flush=True)
cut.wait()
print("ends as it wants", flush=True)
sys.exit(3)
"""
PARENT = """
import subprocess, sys, time
command = [sys.executable, "-P", "-m", "overread.lifeline", *sys.argv[1:]]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stdout)
print(child.pid, flush=True)
time.sleep(600)
"""
PROGRAM = "overread.lifeline"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, text in (("imports_for_long", IMPORTS_FOR_LONG), ("listens", LISTENS)):
        (tmp_path / f"{name}.py").write_text(text)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "lib")])}


@contextmanager
def child_of_another(environment: dict[str, str], *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process, and the id of the child that it started on a lifeline."""
    command = [sys.executable, "-c", PARENT, *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent, child
        finally:
            parent.kill()
            if is_alive(child):
                os.kill(child, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def seconds_to_end(pid: int, patience_s: float = 30) -> float:
    began = time.monotonic()
    while is_alive(pid) and time.monotonic() - began < patience_s:
        time.sleep(0.005)
    return time.monotonic() - began


def test_a_child_whose_parent_is_killed_while_it_imports_ends_within_two_seconds(environment):
    with child_of_another(environment, "imports_for_long") as (parent, child):
        assert parent.stdout is not None
        assert parent.stdout.readline() == "importing\n"
        parent.kill()
        assert seconds_to_end(child) < 2


@pytest.mark.parametrize(
    "program", ["overread.learning.process", "overread.queue.scorer", "overread.queue.patches.scorer"]
)
def test_trainer_and_scorers_end_while_they_import(environment, program):
    with child_of_another(environment, program, "--help") as (parent, child):
        # torch is there when one of its libraries is mapped; its import goes on for long after that.
        maps = Path(f"/proc/{child}/maps")
        while "libtorch" not in maps.read_text():
            time.sleep(0.005)
        parent.kill()
        assert seconds_to_end(child) < 2
        assert parent.stdout is not None
        assert "usage" not in parent.stdout.read()


def test_a_child_whose_parent_was_gone_before_it_began_does_nothing(environment):
    reading, writing = os.pipe()
    os.close(writing)
    ran = subprocess.run(
        [sys.executable, "-m", PROGRAM, "listens"],
        env=environment,
        stdin=reading,
        capture_output=True,
        text=True,
    )
    os.close(reading)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "whoever started this process is gone\n"


def test_a_child_that_listens_ends_as_it_wants(environment):
    with subprocess.Popen(
        [sys.executable, "-P", "-m", PROGRAM, "listens", "--to", "this"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "listening --to this __main__\n"
        process.stdin.close()
        assert process.stdout.read() == "ends as it wants\n"
    assert process.returncode == 3


def test_without_a_pipe_there_is_nobody_to_lose(environment):
    ran = subprocess.run(
        [sys.executable, "-m", PROGRAM, "listens"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (3, "listening __main__\nends as it wants\n")


def test_nothing_heavy_is_imported_before_it_listens(environment):
    code = "import sys, overread.lifeline; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert set(ran.stdout.split()) - sys.stdlib_module_names - {"__main__"} <= {"overread"} | at_every_start()


def at_every_start() -> set[str]:
    """Modules that any Python of this environment imports."""
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; print(*{name.partition('.')[0] for name in sys.modules})"],
        capture_output=True,
        text=True,
    )
    return set(ran.stdout.split())
