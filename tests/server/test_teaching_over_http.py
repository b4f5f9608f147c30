"""Train, pressed for a model that takes turns: labels accepted over HTTP become a challenger, and the gate decides.

The champion saw three steps of training and draws nothing useful, so whatever learns for some seconds is better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from overread.learning.champions import ChampionStore
from support.champions import publish_taught
from support.datasets import ball, write_balls
from support.servers import Server, app_copy, running_server

pytestmark = pytest.mark.slow

RECIPE = "ball"
CASES = 10
# Asked for by the queue, whose every case is drawn by chance here: they judge.
ASKED = 5
ANNA = "anna"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("teaching")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_taught(app_dir / "model", RECIPE, write_balls(base / "central", 8), base / "work")
    rng = np.random.default_rng(7)
    for index in range(CASES):
        image, label = ball((16, 16, 16), rng)
        nib.save(nib.Nifti1Image(image, np.eye(4)), studies / f"study {index}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), base / f"study {index}.nii.gz")
    with running_server(app_dir, studies, ["scoring", "no", "control_share", "1"]) as url:
        yield Server(url, app_dir, studies)


def submit(server: Server, case: str) -> None:
    params = {"label_info": [{"name": "ball", "idx": 1}], "model": RECIPE}
    label = str(server.studies.parent / f"{case}.nii.gz")
    MONAILabelClient(server.url, client_id=ANNA).save_label(case, label, params=params)


def info(server: Server) -> dict[str, Any]:
    return requests.get(f"{server.url}/info/", timeout=60).json()


def train(server: Server, **options: Any) -> requests.Response:
    return requests.post(f"{server.url}/train/{RECIPE}", json=options, timeout=60)


def task(server: Server) -> dict[str, Any]:
    return requests.get(f"{server.url}/train/", timeout=60).json()


def until(found: Callable[[], Any]) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    raise AssertionError("it did not happen")


def show(server: Server, case: str) -> dict[str, Any]:
    answer = requests.post(
        f"{server.url}/infer/{RECIPE}",
        params={"image": case, "output": "json"},
        data={"params": f'{{"client_id": "{ANNA}"}}'},
        timeout=120,
    )
    assert answer.ok, answer.text
    return answer.json()


def test_labels_that_chance_did_not_draw_cannot_judge_one_network(server):
    before = info(server)["models"][RECIPE]["champion"]
    for index in range(3):
        submit(server, f"study {index}")
    assert train(server, minutes=0.05).ok
    until(lambda: task(server)["status"] != "RUNNING")
    over = task(server)
    assert over["status"] == "ERROR"
    assert "only labels of the control arm can judge" in over["details"][-1]
    assert info(server)["models"][RECIPE]["champion"] == before


def test_what_readers_accept_makes_a_champion_that_takes_turns_at_once(server):
    before = info(server)["models"][RECIPE]["champion"]
    client = MONAILabelClient(server.url, client_id=ANNA)
    for _ in range(ASKED):
        submit(server, client.next_sample("most_uncertain", {})["id"])
    task_id = train(server, start="scratch", minutes=0.5).json()["id"]
    stages = set()
    while requests.get(f"{server.url}/train/?check_if_running=true", timeout=60).ok:
        stages.add(info(server)["train_stats"][RECIPE]["stage"])
        time.sleep(0.5)
    over = task(server)
    assert (over["id"], over["status"]) == (task_id, "DONE"), over
    assert "training" in stages
    decision = until(lambda: info(server)["train_stats"][RECIPE]["decision"])
    assert decision["promoted"], decision["reason"]
    assert decision["report"]["local"]["mean_after"] > decision["report"]["local"]["mean_before"]
    after = info(server)["models"][RECIPE]["champion"]
    assert after == decision["challenger"] != before
    shown = show(server, "study 9")
    assert shown["champion"] == after
    assert shown["candidates"]
    store = ChampionStore(server.app_dir / "model")
    child = store.versions(RECIPE)[-1].description
    assert child["kind"] == "meduhip"
    assert len(child["data"]["local"]) == 3 + ASKED
