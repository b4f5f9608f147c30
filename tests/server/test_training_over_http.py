"""Train, as 3D Slicer and OHIF press it: progress in finite numbers, the gate's decision, and a champion that changes.

The champion saw two steps of training and draws nothing useful, so whatever learns for some seconds is better.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from support.champions import publish_beginner
from support.datasets import ball, write_balls
from support.servers import app_copy, publish_threshold, running_server

pytestmark = pytest.mark.slow

RECIPE = "ball"
LABELLED = 4


@dataclass(frozen=True)
class Place:
    """Folders that outlive a server."""

    app_dir: Path
    studies: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("training")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_beginner(app_dir, write_balls(base / "central", 10), base / "work")
    publish_threshold(app_dir, "other")
    rng = np.random.default_rng(7)
    for index in range(LABELLED + 2):
        image, label = ball((16, 16, 16), rng)
        nib.save(nib.Nifti1Image(image, np.eye(4)), studies / f"study {index}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), base / f"label {index}.nii.gz")
    return Place(app_dir, studies)


@pytest.fixture(scope="module")
def url(place: Place) -> Iterator[str]:
    conf = ["scoring", "no", "queue_recipe", RECIPE, "models", f"{RECIPE},other", "precision", "full"]
    with running_server(place.app_dir, place.studies, conf) as url:
        yield url


def submit(url: str, place: Place, index: int) -> None:
    client = MONAILabelClient(url, client_id="anna")
    params = {"label_info": [{"name": "ball", "idx": 1}], "model": RECIPE}
    client.save_label(f"study {index}", str(place.studies.parent / f"label {index}.nii.gz"), params=params)


def stats_of(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/info/", timeout=60).json()["train_stats"][RECIPE]


def champion_of(url: str) -> str:
    return requests.get(f"{url}/info/", timeout=60).json()["models"][RECIPE]["champion"]


def until(found: Callable[[], Any], what: str) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen")


def refusal(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def train(url: str, recipe: str = RECIPE, **options: Any) -> requests.Response:
    return requests.post(f"{url}/train/{recipe}", json=options, timeout=60)


def test_what_cannot_be_trained_is_refused_in_words(url, place):
    info = requests.get(f"{url}/info/", timeout=60).json()
    assert list(info["trainers"]) == list(info["train_stats"]) == [RECIPE]
    config = info["trainers"][RECIPE]["config"]
    assert config == {
        "start": ["champion", "scratch"],
        "minutes": "auto",
        "consensus": ["latest", "majority", "staple"],
    }
    assert "no trainer is called 'unet'; there are ball" in refusal(train(url, "unet"), 404)
    assert "model other is of kind threshold" in refusal(train(url, "other"), 400)
    assert "no accepted label to train ball on yet: submit one first" in refusal(train(url), 400)
    assert "no accepted label" in refusal(requests.post(f"{url}/train/", json={}, timeout=60), 400)
    submit(url, place, 0)
    assert "labels of 1 of the 3 patients that the gate needs" in refusal(train(url), 400)
    assert "epochs is no option of training; there are start, minutes" in refusal(train(url, epochs=3), 400)
    assert "start 'middle' is not offered" in refusal(train(url, start="middle"), 400)
    assert "minutes 'long': expected a number above 0, or auto" in refusal(train(url, minutes="long"), 400)
    assert refusal(requests.get(f"{url}/train/", timeout=60), 404) == "No Train Tasks Found"
    assert requests.delete(f"{url}/train/", timeout=60).json() is None


def test_without_the_central_data_the_remedy_is_named(url, place):
    for index in range(1, LABELLED):
        submit(url, place, index)
    central = place.app_dir / "model" / RECIPE / "central.json"
    kept = central.rename(central.with_suffix(".away"))
    try:
        assert "overread train" in refusal(train(url), 404)
    finally:
        kept.rename(central)


def test_a_trainer_that_gives_up_says_why(url, place):
    central = place.studies.parent / "central"
    kept = central.rename(central.with_name("away"))
    try:
        task = train(url).json()
        until(lambda: task_of(url)["status"] != "RUNNING", "the end")
    finally:
        kept.rename(central)
    over = task_of(url)
    assert (over["id"], over["status"]) == (task["id"], "ERROR")
    assert str(central) in over["details"][-1]
    assert stats_of(url)["state"] == "failed"
    assert not (place.app_dir / "training" / RECIPE / "request.json").exists()


def test_one_click_trains_judges_and_serves_the_better_champion_without_a_restart(url):
    before = champion_of(url)
    client = MONAILabelClient(url, client_id="anna")
    assert client.train_status(check_if_running=True) is False
    # 3D Slicer sends the options table back: strings, and a list where the reader chose nothing.
    task = client.train_start(RECIPE, {"start": "scratch", "minutes": "0.15", "consensus": ["latest"]})
    assert task["request"] == {
        "model": RECIPE,
        "start": "scratch",
        "minutes": 0.15,
        "consensus": "latest",
    }
    assert client.train_status(check_if_running=True) is True
    assert "ball is being trained" in refusal(train(url), 429)
    seen: list[dict[str, Any]] = []
    while client.train_status(check_if_running=True):
        stats = stats_of(url)
        # It may have ended between the two answers.
        if client.train_status(check_if_running=True):
            seen.append(stats)
        time.sleep(1)
    for stats in seen:
        assert stats["total_time"] == ""
        for key in ("epoch", "total_epochs", "best_metric", "training_dice", "share"):
            assert math.isfinite(stats[key])
        assert 0 <= stats["epoch"] <= stats["total_epochs"]
    over = client.train_status()
    assert (over["id"], over["status"]) == (task["id"], "DONE"), over
    assert "training" in {stats["stage"] for stats in seen}
    stats = until(lambda: stats_of(url)["decision"] and stats_of(url), "the decision in /info/")
    decision = stats["decision"]
    assert decision["promoted"], decision["reason"]
    assert decision["reason"] in over["details"]
    assert decision["report"]["local"]["mean_after"] > decision["report"]["local"]["mean_before"]
    assert stats["total_time"]
    assert stats["best_metric"] > 0
    after = champion_of(url)
    assert after == decision["challenger"] != before
    answer = requests.post(f"{url}/infer/{RECIPE}", params={"image": "study 5", "output": "json"}, timeout=60)
    assert answer.json()["champion"] == after


def test_a_trainer_that_is_killed_is_reported_and_carried_on_and_delete_stops_it(url, place):
    champion = champion_of(url)
    # As OHIF's button does.
    answers = requests.post(f"{url}/train/", json={RECIPE: {"minutes": 30}}, timeout=60).json()
    assert list(answers) == [RECIPE]
    assert answers[RECIPE]["result"]["status"] == "RUNNING"
    progress = place.app_dir / "training" / RECIPE / "progress.json"
    pid = until(lambda: progress.exists() and stats_of(url)["stage"] and trainer_pid(progress), "training")
    os.kill(pid, signal.SIGKILL)
    words = "training was ended by SIGKILL from outside the server; carried on from the last checkpoint"
    status = until(lambda: words in str(task_of(url)["details"]) and task_of(url), "the report")
    assert status["status"] == "RUNNING"
    until(lambda: trainer_pid(progress) != pid, "the next trainer")
    stopped = requests.delete(f"{url}/train/", timeout=60).json()
    assert (stopped["status"], stopped["id"]) == ("STOPPED", status["id"])
    assert requests.get(f"{url}/train/?check_if_running=true", timeout=60).status_code == 404
    assert not (progress.parent / "request.json").exists()
    assert champion_of(url) == champion


def trainer_pid(progress: Path) -> int:
    return json.loads(progress.read_text())["pid"]


def task_of(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/train/", timeout=60).json()


def test_a_server_carries_on_what_one_before_it_was_asked_for_and_trains_after_so_many_labels(
    url, place, tmp_path
):
    app_dir, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(place.app_dir, app_dir)
    shutil.copytree(place.studies, studies)
    for name in ("label 4", "label 5"):
        shutil.copy(place.studies.parent / f"{name}.nii.gz", tmp_path)
    folder = app_dir / "training" / RECIPE
    (folder / "request.json").write_text("half of a requ")
    conf = ["scoring", "no", "train_after", "2", "models", RECIPE, "train_minutes", "30"]
    with running_server(app_dir, studies, conf) as again:
        # What cannot be read is set aside.
        until((folder / "request.json.left").exists, "setting the request aside")
        submit(again, Place(app_dir, studies), 4)
        assert requests.get(f"{again}/train/", timeout=60).status_code == 404
        submit(again, Place(app_dir, studies), 5)
        until(lambda: requests.get(f"{again}/train/?check_if_running=true", timeout=60).ok, "training")
        until((folder / "request.json").exists, "the request")
        asked = task_of(again)
        assert asked["request"]["minutes"] == 30
    with running_server(app_dir, studies, conf) as third:
        until(lambda: requests.get(f"{third}/train/?check_if_running=true", timeout=60).ok, "carrying on")
        carried = task_of(third)
        assert carried["id"] == asked["id"]
        assert "carried on after the server had ended" in carried["details"]
