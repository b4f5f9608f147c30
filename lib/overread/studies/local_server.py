"""A server of the real app for a measurement, in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from overread.domain import OverreadError
from overread.ensemble.threshold import write_threshold_ensemble
from overread.learning.champions import ChampionStore

LONGEST_START_S = 600


@dataclass(frozen=True)
class LocalServer:
    """A server that answers.

    Attributes:
        url: where.
        start_s: time from the command to the first answer of `/info/`.
    """

    url: str
    start_s: float


@contextmanager
def local_server(app: Path, studies: Path, conf: Sequence[str] = ()) -> Iterator[LocalServer]:
    """`monailabel start_server` on a free port, stopped at the end of the block.

    Args:
        conf: key, value, key, value, as for `--conf`.

    Raises:
        OverreadError: it did not answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for key, value in zip(conf[::2], conf[1::2], strict=True):
        command += ["--conf", key, value]
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    server = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(f"{url}/info/"):
            if server.poll() is not None or time.perf_counter() - started > LONGEST_START_S:
                raise OverreadError(f"the server of {app} did not answer")
            time.sleep(0.05)
        yield LocalServer(url, time.perf_counter() - started)
    finally:
        server.terminate()
        server.wait()


def app_with_champion(app: Path, folder: Path) -> Path:
    """A copy of our app at `folder`, with a champion that needs no training."""
    folder.mkdir()
    shutil.copy(app / "main.py", folder)
    champion = folder.with_name(f"{folder.name} champion")
    write_threshold_ensemble(champion, "phantom", ("background", "a"), [50], offsets=[0, 10])
    ChampionStore(folder / "model").publish("phantom", champion)
    return folder


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True
