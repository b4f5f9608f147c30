"""Disk full, database locked, studies gone, a damaged champion, a killed child: each is told, and no label is lost.

Also what `/healthz` and `/metrics` say meanwhile, and that all is well again when the trouble is over.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
from fastapi import FastAPI, HTTPException
from prometheus_client.parser import text_string_to_metric_families

from overread.ensemble.storage import read_description, write_description
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.champions import ChampionStore
from overread.server.faults import DATABASE_BUSY, DISK_FULL, STORE_GONE, OutOfOrderError, add_fault_answers
from overread.server.models import ServedModels
from overread.server.settings import Settings
from support.servers import (
    app_copy,
    marker_voxels,
    oblique_grid,
    publish_threshold,
    running_server,
    write_case,
)

pytestmark = pytest.mark.slow

# A little more than what a healthy server wants to be free.
DISK = "300m"
NAMES = ["doubt: high", "doubt: moderate", "organ", "tumour"]
CASES = ("one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Ward:
    """A running server on a disk of its own."""

    url: str
    app: Path
    studies: Path
    disk: Path

    @property
    def database(self) -> Path:
        return self.app / "state" / "overread.db"

    def health(self) -> tuple[int, dict[str, Any]]:
        answer = requests.get(f"{self.url}/healthz", timeout=60)
        return answer.status_code, answer.json()

    def submit(self, case: str, value: int = 3) -> requests.Response:
        """A label of one class: value 3 is `organ`, 4 `tumour`."""
        labels = (marker_voxels() > 60).astype(np.uint8) * value
        path = self.app / f"{case}.nii.gz"
        write_nifti(path, labels, oblique_grid(labels.shape))
        told = {
            "label_info": [{"name": name} for name in NAMES],
            "client_id": "anna",
            "model": "phantom",
        }
        return requests.put(
            f"{self.url}/datastore/label",
            params={"image": case},
            data={"params": json.dumps(told)},
            files={"label": (path.name, path.read_bytes())},
            timeout=120,
        )

    def accepted(self, case: str) -> dict[str, bytes]:
        """Files of accepted labels, and the one that viewers see."""
        shown = self.studies / "labels" / "final" / f"{case}.nii.gz"
        files = [*(self.studies / "accepted" / case).glob("*"), shown]
        return {str(path.relative_to(self.studies)): path.read_bytes() for path in files if path.is_file()}


def mounted(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    base = tmp_path_factory.mktemp("ward")
    disk, studies, app = base / "disk", base / "studies", app_copy(base / "app")
    disk.mkdir()
    studies.mkdir()
    if not mounted("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)):
        pytest.skip("a disk that can be filled needs the right to mount one (root)")
    try:
        assert mounted("--bind", str(disk), str(studies))
        publish_threshold(app)
        for case in CASES:
            write_case(studies, case)
        # What others hold is told soon here, not after the minute that it is waited for otherwise.
        database = f"sqlite:///{app / 'state' / 'overread.db'}?timeout=1"
        with running_server(app, studies, ["database", database]) as url:
            yield Ward(url, app, studies, disk)
    finally:
        for folder in (studies, disk):
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@contextmanager
def nothing_lost(ward: Ward, case: str, told: int, sentence: str) -> Iterator[None]:
    """A label is kept, the next one is refused within the block, and afterwards it is taken."""
    assert ward.submit(case).ok
    before = ward.accepted(case)
    assert len(before) == 3
    yield
    refused = ward.submit(case, 4)
    assert (refused.status_code, refused.json()["detail"]) == (told, sentence)
    assert ward.health()[0] == 503


def taken_again(ward: Ward, case: str) -> None:
    """The earlier label is there as it was, and the one that was refused is taken when it is sent again."""
    first = ward.studies / "accepted" / case / "anna-1.nii.gz"
    assert set(np.unique(read_labelmap(first)[0])) == {0, 1}
    answer = ward.submit(case, 4)
    assert answer.ok, answer.text
    assert answer.json()["accepted"]["revision"] == 2
    assert set(np.unique(read_labelmap(ward.studies / "labels" / "final" / f"{case}.nii.gz")[0])) == {0, 2}
    until(lambda: ward.health()[1]["checks"]["store"]["ok"] and ward.health()[1]["checks"]["database"]["ok"])


def until(is_so: Callable[[], bool], within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def figures(ward: Ward) -> dict[tuple[str, ...], float]:
    """Samples of `/metrics` by name and values of their labels."""
    text = requests.get(f"{ward.url}/metrics", timeout=60).text
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_server_in_order_says_so_and_counts_what_it_does(ward: Ward):
    status, health = ward.health()
    assert status == 200
    assert health["status"] == "ok"
    assert set(health["checks"]) == {"database", "store", "champion", "children"}
    assert requests.get(f"{ward.url}/healthz/live", timeout=60).json() == {"status": "ok"}
    before = figures(ward)
    asked = {"image": "one", "output": "json"}
    params = {"params": json.dumps({"client_id": "anna"})}
    answer = requests.post(f"{ward.url}/infer/phantom", params=asked, data=params, timeout=120)
    assert answer.ok, answer.text
    accepted = ward.submit("one").json()["accepted"]
    assert (
        requests.get(f"{ward.url}/datastore/label", params={"label": "x", "tag": "final"}).status_code == 404
    )
    after = figures(ward)
    champion = answer.json()["champion"]
    assert (
        after["overread_requests_total", "infer", "200"]
        - before.get(("overread_requests_total", "infer", "200"), 0)
        == 1
    )
    assert after["overread_requests_total", "submit", "200"] == 1
    assert after["overread_requests_total", "download_label", "404"] == 1
    assert (
        after["overread_request_seconds_count", "infer"]
        == after["overread_request_seconds_bucket", "infer", "+Inf"]
    )
    assert after["overread_request_seconds_sum", "infer"] > 0
    assert after["overread_labels", "phantom", "accepted"] == 1
    assert 0 < accepted["dice_to_proposal"] < 1
    dice = ("overread_proposed_accepted_dice_sum", champion, "phantom")
    assert after[dice] == pytest.approx(accepted["dice_to_proposal"], abs=1e-3)
    assert after["overread_queue_waiting",] == before["overread_queue_waiting",] - 1
    assert after["overread_champion_usable", "phantom"] == after["overread_database_up",] == 1


def test_a_full_disk(ward: Ward):
    with nothing_lost(ward, "two", 507, DISK_FULL):
        filler = ward.disk / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(ward.disk).f_bavail * os.statvfs(ward.disk).f_frsize
            os.posix_fallocate(file.fileno(), 0, free)
    assert "only 0 MB are free on the disk of the studies folder" in str(ward.health()[1])
    assert requests.get(f"{ward.url}/info/", timeout=60).ok
    filler.unlink()
    taken_again(ward, "two")


def test_a_database_that_another_process_holds(ward: Ward):
    with closing(sqlite3.connect(ward.database, isolation_level=None)) as other:
        with nothing_lost(ward, "three", 503, DATABASE_BUSY):
            other.execute("BEGIN IMMEDIATE")
        assert ward.health()[1]["checks"]["database"] == {"ok": False, "message": DATABASE_BUSY}
        # Readers do not wait for a writer.
        assert requests.get(f"{ward.url}/info/", timeout=60).ok
        other.execute("ROLLBACK")
    taken_again(ward, "three")


def test_studies_whose_disk_is_gone_and_comes_back(ward: Ward):
    with nothing_lost(ward, "four", 503, STORE_GONE):
        subprocess.run(["umount", "-l", str(ward.studies)], check=True)
    assert ward.health()[1]["checks"]["store"] == {"ok": False, "message": STORE_GONE}
    assert requests.get(f"{ward.url}/info/", timeout=60).json()["datastore"]["total"] == len(CASES)
    upload = ward.app / "four.nii.gz"
    sent = {"file": (upload.name, upload.read_bytes())}
    image = requests.put(f"{ward.url}/datastore/image", params={"image": "new"}, files=sent, timeout=60)
    assert (image.status_code, image.json()["detail"]) == (503, STORE_GONE)
    # Nothing was put on the disk below.
    assert list(ward.studies.iterdir()) == []
    # The server has noticed by itself when it says so in its log; then the disk comes back.
    time.sleep(3)
    assert mounted("--bind", str(ward.disk), str(ward.studies))
    taken_again(ward, "four")
    time.sleep(3)
    write_case(ward.studies, "copied in later")
    until(
        lambda: requests.get(f"{ward.url}/info/", timeout=60).json()["datastore"]["total"] == len(CASES) + 1
    )


def test_a_champion_that_is_damaged(ward: Ward):
    assert ward.submit("five").ok
    before = ward.accepted("five")
    description = ChampionStore(ward.app / "model").current("phantom") / "ensemble.json"
    sound = description.read_bytes()
    description.write_bytes(sound[: len(sound) // 2])
    refused = requests.post(f"{ward.url}/infer/phantom", params={"image": "five"}, timeout=60)
    assert refused.status_code == 503
    assert refused.json()["detail"].startswith(
        "the champion of phantom is damaged; `overread models rollback phantom`"
    )
    assert str(ward.app) not in refused.text
    label = ward.submit("five", 4)
    assert label.status_code == 503
    assert ward.accepted("five") == before
    status, health = ward.health()
    assert status == 503
    assert health["checks"]["champion"]["message"].startswith("the champion of phantom cannot be used")
    assert figures(ward)["overread_champion_usable", "phantom"] == 0
    info = requests.get(f"{ward.url}/info/", timeout=60)
    assert info.ok
    assert info.json()["models"] == {}
    description.write_bytes(sound)
    taken_again(ward, "five")
    assert ward.health()[1]["checks"]["champion"]["ok"]


def test_a_child_that_is_killed(ward: Ward):
    def said() -> str:
        return ward.health()[1]["checks"]["children"]["message"]

    def killed() -> bool:
        state = requests.get(f"{ward.url}/overread/state", timeout=60).json()
        if (pid := state["queue"]["scoring"]["pid"]) is not None:
            # It may just have ended by itself.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return said().startswith(
            "scoring was ended by SIGKILL from outside the server; it starts again after"
        )

    assert ward.submit("six").ok
    before = ward.accepted("six")
    # What an earlier trouble did to the scorer is over.
    until(lambda: ward.health()[1]["status"] == "ok")
    write_case(ward.studies, "wants a score")
    until(killed)
    status, health = ward.health()
    assert (status, health["status"]) == (200, "degraded")
    assert ward.accepted("six") == before
    taken_again(ward, "six")
    until(lambda: ward.health()[1]["status"] == "ok")


def test_a_champion_whose_weights_were_changed_is_named_when_it_is_loaded(tmp_path: Path):
    champion = publish_threshold(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(champion, other)
    (other / "weights.bin").write_bytes(b"as trained")
    write_description(other, {**read_description(other), "members": ["weights.bin"]})
    store = ChampionStore(tmp_path / "model")
    (store.publish("phantom", other) / "weights.bin").write_bytes(b"as changed")
    models = ServedModels(store, Settings())
    assert models.troubles() == {}
    with pytest.raises(
        OutOfOrderError, match="the champion of phantom cannot be loaded; `overread models rollback"
    ):
        models.ensemble("phantom")
    assert list(models.troubles()) == models.names() == ["phantom"]
    assert "weights.bin is not the file that was trained" in models.troubles()["phantom"]
    store.rollback("phantom")
    assert models.ensemble("phantom").name == "phantom"
    assert models.troubles() == {}


def test_an_upload_that_cannot_be_kept_meanwhile_is_not_called_unreadable():
    app = FastAPI()
    add_fault_answers(app)

    @app.put("/")
    def put(number: int) -> str:
        # As FastAPI does where reading the body fails, whatever the reason.
        raise HTTPException(400, "There was an error parsing the body") from OSError(
            number, os.strerror(number), "/secret/place"
        )

    async def asked(path: str) -> tuple[int, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ward") as client:
            answer = await client.put(path)
            return answer.status_code, answer.json()["detail"]

    assert asyncio.run(asked(f"/?number={errno.ENOSPC}")) == (507, DISK_FULL)
    status, sentence = asyncio.run(asked(f"/?number={errno.EIO}"))
    assert status == 503
    assert sentence.startswith("the server cannot reach its files (Input/output error)")
    assert "secret" not in sentence
    # What is no fault of the server stays what it was.
    assert asyncio.run(asked(f"/?number={errno.ECONNRESET}")) == (400, "There was an error parsing the body")
    assert asyncio.run(asked("/else")) == (404, "Not Found")
