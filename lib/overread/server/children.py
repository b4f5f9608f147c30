"""Child processes of ours: scoring and training run beside the server, at lower priority, and end with it."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import overread
from overread import lifeline

logger = logging.getLogger(__name__)

# Added to the server's own niceness: requests go before scoring and training.
LOWER_PRIORITY = 10
# A log larger than this is set aside, as NAME.log.1, when its child starts again.
LOG_BYTES = 5 << 20
# A child that was asked to end gets this long before it is killed.
PATIENCE_S = 15
# After a crash of the server its children take a moment to notice; a new child of that name waits for them.
OLD_CHILD_S = 60


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        code: its exit code; negative for the signal that ended it.
        wanted: whether it was stopped from here.
        last_line: of its log.
    """

    name: str
    code: int
    wanted: bool
    last_line: str

    @property
    def words(self) -> str:
        """One sentence for people."""
        if self.wanted:
            return f"{self.name} was stopped"
        if self.code == 0:
            return f"{self.name} finished"
        if self.code < 0:
            return f"{self.name} was ended by {signal.Signals(-self.code).name} from outside the server"
        return f"{self.name} failed with exit code {self.code}: {self.last_line or 'its log says nothing'}"


class Children:
    """Starts, watches and stops child processes, each under a name of its own.

    A child's standard input is a pipe that nobody writes to: it closes when the server ends in whatever way, and
    the child ends then, also while it still imports (`overread.lifeline`). Until that happened, no other server can
    start a child of the same name in this folder: the child holds a lock on `NAME.lock` from its first moment to its
    last.

    Args:
        logs: folder of the logs; what a child prints goes to `NAME.log`.
        locks: folder of the lock files.
        threads: CPU threads of a child; None leaves one core to the server.
        environment: further variables for the children; secrets belong here, as everybody can read a command line.
    """

    def __init__(
        self,
        logs: Path,
        locks: Path,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._further = dict(environment or {})
        self._logs, self._locks = Path(logs), Path(locks)
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._guard = threading.Lock()
        self._running: dict[str, _Child] = {}

    def start(
        self, name: str, module: str, arguments: Sequence[str], on_end: Callable[[Ending], None]
    ) -> bool:
        """Start `python -m module arguments`; False, without starting anything, where one of that name runs.

        Args:
            on_end: called once, in a thread of the child's own, when it has ended.
        """
        with self._guard:
            if name in self._running:
                return False
            child = _Child(name, [sys.executable, "-P", "-m", lifeline.__name__, module, *arguments])
            self._running[name] = child
        threading.Thread(target=self._watch, args=(child, on_end), name=f"child {name}", daemon=True).start()
        return True

    def running(self, name: str) -> bool:
        """Whether a child of that name runs, or is about to."""
        return name in self._running

    def pid(self, name: str) -> int | None:
        """Process id of a child, or None where there is none."""
        child = self._running.get(name)
        return None if child is None or child.process is None else child.process.pid

    def stop(self, name: str) -> bool:
        """Ask a child to end, and see to it. False where none of that name runs. Returns when it is over."""
        child = self._running.get(name)
        if child is None:
            return False
        child.stop()
        child.over.wait()
        return True

    def close(self) -> None:
        """Stop all of them."""
        for name in list(self._running):
            self.stop(name)

    def _watch(self, child: _Child, on_end: Callable[[Ending], None]) -> None:
        log = self._logs / f"{child.name}.log"
        try:
            ending = self._run(child, log)
        except OSError as error:
            logger.exception("%s could not be started", child.name)
            ending = Ending(child.name, 1, child.wanted_end.is_set(), str(error))
        with self._guard:
            del self._running[child.name]
        level = logging.INFO if ending.wanted or ending.code == 0 else logging.ERROR
        logger.log(level, "%s; its log is %s", ending.words, log)
        try:
            on_end(ending)
        finally:
            child.over.set()

    def _run(self, child: _Child, log: Path) -> Ending:
        for folder in (self._logs, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"{child.name}.lock").open("ab") as lock:
            if not _locked(lock, child.wanted_end):
                waited = f"another {child.name} still runs after {OLD_CHILD_S} s, perhaps of another server"
                return Ending(child.name, 1, child.wanted_end.is_set(), waited)
            if log.exists() and log.stat().st_size > LOG_BYTES:
                log.replace(log.with_name(f"{log.name}.1"))
            with log.open("ab") as sink:
                begins = sink.tell()
                child.begin(sink, lock, self._environment())
        code = child.wait()
        return Ending(child.name, code, child.wanted_end.is_set(), _last_line(log, begins))

    def _environment(self) -> dict[str, str]:
        library = str(Path(overread.__file__).parents[1])
        paths = [library, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        return os.environ | self._further | threads | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class _Child:
    """One process, from the wish to start it until it is over."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self._command = name, command
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted_end, self.over = threading.Event(), threading.Event()
        self._guard = threading.Lock()

    def begin(self, log: IO[bytes], lock: IO[bytes], environment: dict[str, str]) -> None:
        """Start the process, unless it was stopped before. The lock goes to it: it is let go when the process ends."""
        with self._guard:
            if self.wanted_end.is_set():
                return
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in the server's terminal is for the server.
                start_new_session=True,
            )
        logger.info("%s runs as process %d", self.name, self.process.pid)
        try:
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + LOWER_PRIORITY
            os.setpriority(os.PRIO_PROCESS, self.process.pid, min(19, niceness))
        except ProcessLookupError:
            logger.info("%s ended at once", self.name)

    def wait(self) -> int:
        """Exit code, once there is one; 0 where the process was never started."""
        if self.process is None:
            return 0
        code = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self) -> None:
        """Ask the process to end; kill it where it does not."""
        with self._guard:
            self.wanted_end.set()
            process = self.process
        if process is None:
            return
        process.terminate()
        if not self.over.wait(PATIENCE_S):
            process.kill()


def _locked(lock: IO[bytes], given_up: threading.Event) -> bool:
    deadline = time.monotonic() + OLD_CHILD_S
    while not given_up.is_set():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        else:
            return True
    return False


def _last_line(log: Path, begins: int) -> str:
    """The last line that a child wrote after byte `begins`."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begins, end - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
