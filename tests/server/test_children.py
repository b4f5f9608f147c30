"""Child processes run once per name, report how they ended, and end with their parent, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest

from overread.server import children as module
from overread.server.children import Children, Ending
from support.servers import ROOT

# Says who it is, and lives until its standard input closes.
FAITHFUL = """
import os, sys
print("pid", os.getpid(), "nice", os.nice(0), "threads", os.environ["OMP_NUM_THREADS"], flush=True)
sys.stdin.read()
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(600)
"""
FAILING = "import sys; print('first'); sys.exit('the disk is full')"
SERVER = """
import sys, time
from pathlib import Path
from overread.server.children import Children
folder = Path(sys.argv[1])
Children(folder / "logs", folder / "locks").start("worker", "faithful", [], print)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("faithful", FAITHFUL), ("stubborn", STUBBORN), ("failing", FAILING)):
        (programs / f"{name}.py").write_text(text)
    (programs / "server_like.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(programs), str(ROOT / "lib")]))
    return tmp_path


@pytest.fixture
def children(folder: Path):
    made = Children(folder / "logs", folder / "locks", threads=3)
    yield made
    made.close()


def eventually(found: Callable[[], object], what: str) -> object:
    """The first truthy answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen")


def words_of(folder: Path, name: str) -> list[str]:
    """The first line in a child's log, once it is there."""
    log = folder / "logs" / f"{name}.log"
    return eventually(lambda: log.exists() and "\n" in log.read_text() and log.read_text(), str(log)).split()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_has_its_log_its_threads_and_lower_priority_and_is_one_of_its_name(folder, children):
    ended: Queue[Ending] = Queue()
    assert children.start("worker", "faithful", [], ended.put)
    assert not children.start("worker", "faithful", [], ended.put)
    words = words_of(folder, "worker")
    assert words[-1] == "3"
    pid = int(words[1])
    assert children.pid("worker") == pid
    eventually(lambda: os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0), "nice")
    assert children.stop("worker")
    assert ended.get(timeout=30).words == "worker was stopped"
    assert not children.running("worker")
    assert children.pid("worker") is None
    assert not children.stop("worker")


def test_a_child_that_fails_is_reported_with_its_last_line(children):
    ended: Queue[Ending] = Queue()
    children.start("worker", "failing", [], ended.put)
    assert ended.get(timeout=30).words == "worker failed with exit code 1: the disk is full"


def test_a_child_that_is_killed_is_reported_and_can_start_again(folder, children):
    ended: Queue[Ending] = Queue()
    children.start("worker", "faithful", [], ended.put)
    os.kill(int(words_of(folder, "worker")[1]), signal.SIGKILL)
    ending = ended.get(timeout=30)
    assert ending.words == "worker was ended by SIGKILL from outside the server"
    assert not ending.wanted
    assert children.start("worker", "faithful", [], ended.put)


def test_a_child_that_does_not_listen_is_killed(folder, children, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    ended: Queue[Ending] = Queue()
    children.start("deaf", "stubborn", [], ended.put)
    words_of(folder, "deaf")
    children.stop("deaf")
    assert ended.get(timeout=30).code == -signal.SIGKILL


def test_children_end_with_a_killed_server_and_the_next_server_waits_for_them(folder, children):
    server = subprocess.Popen([sys.executable, "-m", "server_like", str(folder)], env=os.environ)
    pid = int(words_of(folder, "worker")[1])
    # The child is held up, so that it cannot notice yet.
    os.kill(pid, signal.SIGSTOP)
    server.kill()
    server.wait()
    ended: Queue[Ending] = Queue()
    children.start("worker", "faithful", [], ended.put)
    time.sleep(0.5)
    assert children.pid("worker") is None
    assert is_alive(pid)
    os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: children.pid("worker"), "the next child") != pid
    assert not is_alive(pid)


def test_a_name_that_stays_taken_is_reported(folder, children, monkeypatch):
    monkeypatch.setattr(module, "OLD_CHILD_S", 0.3)
    other = Children(folder / "logs", folder / "locks")
    ended: Queue[Ending] = Queue()
    try:
        other.start("worker", "faithful", [], ended.put)
        words_of(folder, "worker")
        children.start("worker", "faithful", [], ended.put)
        assert "another worker still runs after 0.3 s" in ended.get(timeout=30).words
    finally:
        other.close()


def test_a_program_that_cannot_be_started_is_reported(folder, children, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", str(folder / "no such python"))
    ended: Queue[Ending] = Queue()
    children.start("worker", "faithful", [], ended.put)
    assert "No such file or directory" in ended.get(timeout=30).words


def test_a_long_log_is_set_aside(folder, children, monkeypatch):
    monkeypatch.setattr(module, "LOG_BYTES", 10)
    (folder / "logs").mkdir()
    (folder / "logs" / "worker.log").write_text("what happened before\n")
    ended: Queue[Ending] = Queue()
    children.start("worker", "failing", [], ended.put)
    ended.get(timeout=30)
    assert (folder / "logs" / "worker.log.1").read_text() == "what happened before\n"
    assert "what happened before" not in (folder / "logs" / "worker.log").read_text()
