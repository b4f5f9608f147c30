"""Sixteen readers at one server, for ten minutes: how long each kind of request takes, and whether a label is lost.

    python -m overread.studies.load_test apps/radiology --minutes 10 --clients 16

Each reader does what 3D Slicer does: info, next case, image, inference; looks at it for a while, asking meanwhile how
training and queue are; submits a label that no other one equals; and goes on. The server scores its cases in the
background as always. Afterwards, with the server stopped, every label that was answered with 200 is looked for in the
database, in its file and voxel by voxel.

Ends with exit code 1 where a label was lost, a request failed, or the light requests took too long. The load average of
the machine is told with the result: what else runs there is waited for as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from overread.domain import Grid
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.label_files import sha256_of
from overread.learning.process import ACCEPTED
from overread.state.audit import verify
from overread.state.database import Database, default_path
from overread.state.labels import labels
from overread.studies.kill_reader import Sent, digest_of
from overread.studies.local_server import app_with_champion, local_server

RECIPE, FINDING = "phantom", "a"
SHAPE = (64, 64, 32)
GRID = Grid(SHAPE, np.diag([0.8, 0.8, 2.5, 1.0]))
# Intensity of what is to be found, well above the champion's threshold of 50.
BRIGHT = 90
# The number of a label is written into so many voxels of its corner.
NUMBER_BITS = 32
INFO, NEXT, IMAGE, INFER, TRAIN, STATE, SUBMIT = "info", "next", "image", "infer", "train", "state", "submit"
LIGHT = (INFO, NEXT, TRAIN, STATE)
# Of requests that are light, 95 % are answered within this time.
LIGHT_P95_S = 0.5
TIMEOUT_S = 300


@dataclass(frozen=True)
class Request:
    """One answered, or failed, request.

    Attributes:
        took_s: until all of the answer was there.
        trouble: empty, or what was wrong with the answer.
    """

    took_s: float
    trouble: str = ""


@dataclass
class Ledger:
    """What all readers did."""

    requests: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    sent: list[Sent] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def new_label(self, case: str) -> tuple[Sent, np.ndarray]:
        """What is bright, with the label's number in a corner."""
        with self.guard:
            voxels = picture() > 0
            number = len(self.sent) + 1
            voxels[0, :NUMBER_BITS, 0] = [number >> bit & 1 for bit in range(NUMBER_BITS)]
            self.sent.append(Sent(case, digest_of(voxels)))
            return self.sent[-1], voxels.astype(np.uint8)


@dataclass(frozen=True)
class Line:
    """One kind of request in the table."""

    kind: str
    requests: int
    p50_s: float
    p95_s: float
    max_s: float
    troubles: int


@dataclass(frozen=True)
class Outcome:
    """What came of it all.

    Attributes:
        lines: by kind; the last is all light requests together.
        sent, answered: labels.
        lost: a sentence for each label that was answered with 200 and is not as it was sent.
        troubles: what failed, each sentence once, with how often.
        load: the machine's average of one minute, at the beginning and at the end.
    """

    lines: tuple[Line, ...]
    sent: int
    answered: int
    lost: tuple[str, ...]
    troubles: tuple[str, ...]
    load: tuple[float, float]

    def wrong(self, light_p95_s: float = LIGHT_P95_S) -> list[str]:
        """Why this is not good enough, in words; empty where it is."""
        found = [*self.lost, *self.troubles]
        light = self.lines[-1]
        if light.p95_s >= light_p95_s:
            found.append(f"95 % of the light requests took up to {light.p95_s:.2f} s, not {light_p95_s:g} s")
        return found

    def text(self) -> str:
        """A table for people."""
        rows = [f"{'request':<18}{'number':>8}{'p50 s':>9}{'p95 s':>9}{'max s':>9}{'failed':>8}"]
        rows += [
            f"{line.kind:<18}{line.requests:>8}{line.p50_s:>9.3f}{line.p95_s:>9.3f}{line.max_s:>9.3f}{line.troubles:>8}"
            for line in self.lines
        ]
        rows.append(
            f"{self.sent} labels sent, {self.answered} answered with 200, "
            f"{self.answered - len(self.lost)} of those found as they were sent"
        )
        rows.append(
            f"load average of the machine: {self.load[0]:.1f} at the beginning, {self.load[1]:.1f} at the end"
        )
        return "\n".join(rows)


class Reader:
    """One client. `work` goes on until it is told to stop."""

    def __init__(self, name: str, url: str, ledger: Ledger, work: Path, think_s: float) -> None:
        self.name, self._url, self._ledger, self._think_s = name, url, ledger, think_s
        self._file = work / f"{name}.nii.gz"
        self._mine: list[str] = []
        self._rng = np.random.default_rng(sum(name.encode()))

    def work(self, stop: threading.Event) -> None:
        """Case after case; a failed request ends the case."""
        # Not all in step.
        stop.wait(self._rng.uniform(0, self._think_s))
        while not stop.is_set():
            self._one_case(stop)

    def _one_case(self, stop: threading.Event) -> None:
        self._ask(INFO, "GET", "/info/")
        told = {"client_id": self.name}
        answer = self._ask(NEXT, "POST", "/activelearning/most_uncertain", json=told)
        if answer is None:
            stop.wait(1)
            return
        case = answer.json().get("id") or (str(self._rng.choice(self._mine)) if self._mine else None)
        if case is None:
            stop.wait(1)
            return
        self._ask(IMAGE, "GET", "/datastore/image", params={"image": case})
        asked = {"params": json.dumps(told | {"result_extension": ".nrrd"})}
        self._ask(INFER, "POST", f"/infer/{RECIPE}", params={"image": case}, data=asked)
        for _ in range(2):
            stop.wait(self._think_s * self._rng.uniform(0.3, 0.7))
            self._ask(TRAIN, "GET", "/train/", params={"check_if_running": "true"}, fine=(200, 404))
            self._ask(STATE, "GET", "/overread/state")
        self._submit(case, told)

    def _submit(self, case: str, told: dict[str, str]) -> None:
        sent, voxels = self._ledger.new_label(case)
        write_nifti(self._file, voxels, GRID)
        said = told | {"label_info": [{"name": FINDING, "idx": 1}], "model": RECIPE}
        answer = self._ask(
            SUBMIT,
            "PUT",
            "/datastore/label",
            params={"image": case},
            data={"params": json.dumps(said)},
            files={"label": (self._file.name, self._file.read_bytes())},
        )
        if answer is not None:
            sent.accepted = answer.json()["accepted"]
            self._mine.append(case)

    def _ask(
        self, kind: str, method: str, path: str, fine: Sequence[int] = (200,), **arguments: Any
    ) -> requests.Response | None:
        """The answer; None where there was none, or another than is `fine`."""
        began = time.perf_counter()
        try:
            # A connection each, as 3D Slicer has it.
            answer = requests.request(method, f"{self._url}{path}", timeout=TIMEOUT_S, **arguments)
            trouble = "" if answer.status_code in fine else f"{answer.status_code} {answer.text[:200]}"
        except requests.RequestException as error:
            answer, trouble = None, f"no answer: {type(error).__name__}"
        request = Request(time.perf_counter() - began, trouble)
        with self._ledger.guard:
            self._ledger.requests[kind].append(request)
        return None if trouble else answer


def picture() -> np.ndarray:
    """A bright block, `(i, j, k)`."""
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[20:44, 20:44, 8:24] = BRIGHT
    return voxels


def run(
    app: Path,
    folder: Path,
    clients: int,
    minutes: float,
    cases: int,
    think_s: float,
    report: Callable[[float], None] = lambda share: None,
) -> Outcome:
    """Make studies and server below `folder`, let the readers work, and look what came of it.

    Args:
        app: folder of our app.
        folder: must exist.
        think_s: what a reader takes between picture and label, on average.
        report: is told the share of the time that is over.
    """
    copied, studies, work = folder / "app", folder / "studies", folder / "work"
    app_with_champion(app, copied)
    work.mkdir()
    studies.mkdir()
    first = studies / "case_0000.nii.gz"
    write_nifti(first, picture(), GRID)
    for index in range(1, cases):
        os.link(first, studies / f"case_{index:04}.nii.gz")
    ledger, stop = Ledger(), threading.Event()
    with local_server(copied, studies) as server:
        readers = [Reader(f"reader {n:02}", server.url, ledger, work, think_s) for n in range(clients)]
        threads = [threading.Thread(target=reader.work, args=(stop,)) for reader in readers]
        before = os.getloadavg()[0]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while (passed := time.monotonic() - began) < 60 * minutes:
            report(passed / (60 * minutes))
            time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        after = os.getloadavg()[0]
    return outcome(ledger, copied, studies, (before, after))


def outcome(ledger: Ledger, app: Path, studies: Path, load: tuple[float, float]) -> Outcome:
    """Count what was asked, and look for what was sent."""
    lines = [line(kind, found) for kind, found in sorted(ledger.requests.items())]
    light = [request for kind in LIGHT for request in ledger.requests[kind]]
    troubles: dict[str, int] = defaultdict(int)
    for kind, found in ledger.requests.items():
        for request in found:
            if request.trouble:
                troubles[f"{kind}: {request.trouble}"] += 1
    answered = [sent for sent in ledger.sent if sent.accepted is not None]
    return Outcome(
        lines=(*lines, line("all light ones", light)),
        sent=len(ledger.sent),
        answered=len(answered),
        lost=tuple(lost_labels(answered, default_path(app), studies / ACCEPTED)),
        troubles=tuple(f"{sentence} ({count} x)" for sentence, count in sorted(troubles.items())),
        load=load,
    )


def line(kind: str, found: Sequence[Request]) -> Line:
    """A kind's row of the table."""
    took = np.array([request.took_s for request in found] or [0.0])
    p50, p95 = np.percentile(took, [50, 95])
    failed = sum(bool(request.trouble) for request in found)
    return Line(kind, len(found), float(p50), float(p95), float(took.max()), failed)


def lost_labels(answered: Sequence[Sent], database: Path, accepted: Path) -> list[str]:
    """A sentence for each label that is not in the database, not in its file, or not what was sent."""
    opened = Database.open(database, must_exist=True)
    try:
        with opened.reading() as c:
            rows = {row.id: row for row in labels(c)}
            found = verify(c)
    finally:
        opened.close()
    for sent in answered:
        said = sent.accepted or {}
        row, file = rows.get(int(said["id"])), accepted / str(said["file"])
        if row is None or not file.is_file() or sha256_of(file) != row.sha256:
            found.append(f"the label {said['file']} was answered with 200 and is lost")
        elif digest_of(read_labelmap(file)[0]) != sent.digest:
            found.append(f"the label {said['file']} is not what was sent")
    return found


def main() -> None:
    """Run it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("app", type=Path, help="folder of our app")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--cases", type=int, default=1000, help="studies in the folder")
    parser.add_argument(
        "--think", type=float, default=6.0, help="seconds between picture and label, on average"
    )
    arguments = parser.parse_args()

    def report(share: float) -> None:
        print(f"\r{share:4.0%}", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        found = run(
            arguments.app,
            Path(scratch),
            arguments.clients,
            arguments.minutes,
            arguments.cases,
            arguments.think,
            report,
        )
    print(f"{arguments.clients} clients, {arguments.minutes:g} minutes, {arguments.cases} studies")
    print(found.text())
    wrong = found.wrong()
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
