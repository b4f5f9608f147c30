"""Runs a module in a process that ends with whoever started it: `python -m overread.lifeline MODULE ARGUMENTS`.

Standard input is a pipe that nobody writes to: it closes when the process at its other end has ended, in whatever
way. The heavy imports of MODULE take seconds, on a busy machine minutes, and a thread that waits gets no turn
meanwhile; so until MODULE listens for itself (`when_cut`), the kernel ends this process.

Imports the standard library only, so that it listens at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import runpy
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

STDIN = 0


def hold() -> None:
    """From now on this process ends as soon as standard input closes. Does nothing where that is no pipe."""
    if not _is_pipe():
        return
    # The kernel tells that a pipe closed by SIGIO, which ends a process that does not expect it.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(STDIN, fcntl.F_SETOWN, os.getpid())
    _signal_when_closed(True)
    # It tells of what happens from now on.
    if _is_closed():
        sys.exit("whoever started this process is gone")


def when_cut(act: Callable[[], None]) -> None:
    """Call `act` in a thread when standard input has closed, rather than end this process then."""
    if _is_pipe():
        _signal_when_closed(False)
    threading.Thread(target=_wait, args=(act,), name="lifeline", daemon=True).start()


def _wait(act: Callable[[], None]) -> None:
    try:
        # Unbuffered: at exit, Python must not wait for this thread to let go of a buffer.
        while sys.stdin is not None and os.read(sys.stdin.fileno(), 4096):
            pass
    except OSError:
        logger.warning("standard input cannot be read; taking it for closed")
    act()


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(STDIN).st_mode)
    except OSError:
        return False


def _signal_when_closed(wanted: bool) -> None:
    flags = fcntl.fcntl(STDIN, fcntl.F_GETFL) & ~os.O_ASYNC
    fcntl.fcntl(STDIN, fcntl.F_SETFL, flags | os.O_ASYNC if wanted else flags)


def _is_closed() -> bool:
    poll = select.poll()
    poll.register(STDIN, 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    hold()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
