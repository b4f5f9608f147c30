"""How long a client waits for the next case with many cases in the store, also while they are being scored.

python -m overread.studies.queue_benchmark apps/radiology --cases 10000 --requests 100

The studies are copies of one tiny volume (hard links), so that the time is the queue's and not the disk's. Asked by two
clients in turns: right after the start, while scoring runs, and with a score for every case.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import Grid
from overread.imaging.volumes import write_nifti
from overread.learning.champions import ChampionStore
from overread.queue.scoring import CHAMPION_LENGTH, revision_of
from overread.state.database import Database, default_path
from overread.state.scores import ScoreRow, put_score
from overread.studies.local_server import app_with_champion, local_server

STRATEGIES = ("pairwise_dice", "most_uncertain", "clasp_pe", "foreground_random")
# As many as `image_features` gives matters little; this many numbers are read for each case.
FEATURES = 24


def make_studies(folder: Path, cases: int) -> None:
    """A folder of `cases` studies, all the same file."""
    folder.mkdir()
    voxels = np.zeros((8, 8, 8), dtype=np.float32)
    voxels[2:6, 2:6, 2:6] = 55
    first = folder / "case_00000.nii.gz"
    write_nifti(first, voxels, Grid(voxels.shape, np.eye(4)))
    for index in range(1, cases):
        os.link(first, folder / f"case_{index:05}.nii.gz")


def score_all(app: Path, studies: Path) -> None:
    """A made-up score for every study, as if all had been scored."""
    rng = np.random.default_rng(0)
    champion = ChampionStore(app / "model").current("phantom").name[:CHAMPION_LENGTH]
    database = Database.open(default_path(app))
    with database.writing() as c:
        for path in sorted(studies.glob("*.nii.gz")):
            doubt, volume = (float(value) for value in rng.random(2))
            row = ScoreRow(
                recipe="phantom",
                champion=champion,
                case_id=path.name.removesuffix(".nii.gz"),
                revision=revision_of(path),
                doubt=doubt,
                quality=doubt / 2,
                class_doubt={"a": doubt},
                foreground_mm3={"a": 1000 * volume},
                features=tuple(float(value) for value in rng.normal(size=FEATURES).round(5)),
                took_s=0.1,
                error=None,
                scored_at=time.time(),
            )
            put_score(c, row)
    database.close()


def ask(url: str, strategy: str, client: str) -> tuple[float, dict[str, Any]]:
    """Seconds until the answer, and the answer."""
    request = urllib.request.Request(
        f"{url}/activelearning/{strategy}",
        data=json.dumps({"client_id": client}).encode(),
        headers={"Content-Type": "application/json"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read()
    return time.perf_counter() - started, json.loads(text)


def wait_for_scores(url: str) -> None:
    """Return when the first case has been scored."""
    scored = 0
    while not scored:
        time.sleep(0.2)
        with urllib.request.urlopen(f"{url}/overread/state", timeout=120) as answer:
            scored = json.loads(answer.read())["queue"]["scored"]


def measure(url: str, requests: int, when: str) -> None:
    """Ask by each strategy, and print how long it took."""
    for strategy in STRATEGIES:
        answers = [ask(url, strategy, f"reader {index % 2}") for index in range(requests)]
        times = 1000 * np.array([seconds for seconds, _ in answers])
        scored = [answer["scored"] for _, answer in answers]
        print(
            f"{when}, {strategy}: p50 {np.median(times):.0f} ms, p95 {np.percentile(times, 95):.0f} ms, "
            f"max {times.max():.0f} ms; {scored[0]} to {scored[-1]} of {answers[-1][1]['total']} scored"
        )


def main() -> None:
    """Make the store, start the server, ask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("app", type=Path, help="folder of our app")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100, help="per strategy")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        app, studies = Path(scratch) / "app", Path(scratch) / "studies"
        app_with_champion(arguments.app, app)
        make_studies(studies, arguments.cases)
        with local_server(app, studies) as server:
            print(f"first start with {arguments.cases} studies: {server.start_s:.1f} s")
            measure(server.url, arguments.requests, "just started")
            wait_for_scores(server.url)
            measure(server.url, arguments.requests, "while scoring")
        score_all(app, studies)
        with local_server(app, studies, ["scoring", "no"]) as server:
            print(f"next start: {server.start_s:.1f} s")
            measure(server.url, arguments.requests, "all scored")


if __name__ == "__main__":
    main()
