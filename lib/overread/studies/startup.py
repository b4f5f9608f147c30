"""How long `monailabel start_server` takes with our app, against an app that serves nothing.

python -m overread.studies.startup apps/radiology --repeats 3
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from overread.ensemble.threshold import write_threshold_ensemble
from overread.learning.champions import ChampionStore

EMPTY_APP = """from monailabel.interfaces.app import MONAILabelApp


class Empty(MONAILabelApp):
    pass
"""
LONGEST_START_S = 600


def seconds_to_first_answer(app: Path, studies: Path) -> float:
    """Time from the command to the first answer of `/info/`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    library = str(Path(__file__).parents[2])
    started = time.perf_counter()
    server = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": library},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() - started < LONGEST_START_S and server.poll() is None:
            if _answers(f"http://127.0.0.1:{port}/info/"):
                return time.perf_counter() - started
            time.sleep(0.05)
        raise SystemExit(f"the server of {app} did not answer")
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


def main() -> None:
    """Start both apps in turns, each in a fresh folder, and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("app", type=Path, help="folder of our app")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"empty": [], "ours": []}
    for _ in range(arguments.repeats):
        for name, times in seconds.items():
            with tempfile.TemporaryDirectory() as scratch:
                app, studies = Path(scratch) / "app", Path(scratch) / "studies"
                app.mkdir()
                if name == "empty":
                    (app / "main.py").write_text(EMPTY_APP)
                else:
                    shutil.copy(arguments.app / "main.py", app)
                    write_threshold_ensemble(Path(scratch) / "champion", "phantom", ("background", "a"), [1])
                    ChampionStore(app / "model").publish("phantom", Path(scratch) / "champion")
                times.append(seconds_to_first_answer(app, studies))
    for name, times in seconds.items():
        print(f"{name}: median {statistics.median(times):.1f} s of {', '.join(f'{t:.1f}' for t in times)}")
    difference = statistics.median(seconds["ours"]) - statistics.median(seconds["empty"])
    print(f"ours takes {difference:+.1f} s longer")


if __name__ == "__main__":
    main()
