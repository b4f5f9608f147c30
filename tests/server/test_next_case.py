"""Two readers at work: each gets cases of their own, is told why, and the index of the store is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from overread.queue.strategies import STRATEGIES
from support.servers import app_copy, publish_threshold, running_server, write_case

pytestmark = pytest.mark.slow

SHAPE = (24, 20, 8)
CASES = 10


@dataclass(frozen=True)
class Place:
    """An app folder and a studies folder that outlive a server."""

    app_dir: Path
    studies: Path


def doubtful(amount: int) -> np.ndarray:
    """An organ of 8 x 8 x 4 voxels, of which `amount` rows divide the members."""
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[4:12, 4:12, 2:6] = 90
    voxels[4 : 4 + amount, 4:12, 2:6] = 61
    return voxels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Ten cases; the more doubtful, the higher their number."""
    base = tmp_path_factory.mktemp("readers")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    for index in range(CASES):
        # A different brightness far away, so that no case is taken for a copy of another.
        voxels = doubtful(index % 8)
        voxels[18:, :, :] = 3.0 * index
        write_case(studies, f"case {index}", voxels)
    return Place(app_dir, studies)


@pytest.fixture(scope="module")
def url(place: Place) -> Iterator[str]:
    with running_server(place.app_dir, place.studies, ["control_share", "0"]) as url:
        yield url


def queue_of(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/info/", timeout=60).json()["queue"]


def eventually(found: Callable[[], Any], what: str) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen")


def test_every_strategy_is_listed_the_default_first(url):
    listed = requests.get(f"{url}/info/", timeout=60).json()["strategies"]
    assert set(listed) == set(STRATEGIES)
    assert next(iter(listed)) == "pairwise_dice"
    assert listed["pairwise_dice"]["description"].endswith("(the default)")
    assert all(set(info) == {"description"} for info in listed.values())


def test_two_readers_get_cases_of_their_own_with_the_reason_as_the_volumes_name(url, place):
    index = place.studies / "datastore_v2.json"
    before = index.read_bytes()
    first = MONAILabelClient(url, client_id="anna").next_sample("most_uncertain", {})
    second = MONAILabelClient(url, client_id="berta").next_sample("most_uncertain", {})
    assert first["id"] != second["id"]
    for answer in (first, second):
        path = place.studies / f"{answer['id']}.nii.gz"
        assert (answer["path"], answer["name"]) == (str(path), path.name)
        assert answer["reason"]
        assert answer["reason"] in answer["PatientID"]
        assert answer["id"] in answer["PatientID"]
        assert "\n" not in answer["PatientID"]
        assert (answer["strategy"], answer["arm"]) == ("most_uncertain", "strategy")
        assert answer["total"] == CASES
        assert answer["lease_expires"] > time.time() + 1700
    assert queue_of(url)["leases"] == 2
    third = MONAILabelClient(url, client_id="anna").next_sample("most_uncertain", {})
    assert third["id"] not in (first["id"], second["id"])
    assert queue_of(url)["leases"] == 2
    # MONAI Label notes every request in its index; with thousands of cases that alone takes its time.
    assert index.read_bytes() == before


def test_ohif_that_can_only_ask_for_random_gets_the_default_and_others_get_random(url):
    ohif = requests.post(f"{url}/activelearning/random", json={}, timeout=60).json()
    slicer = MONAILabelClient(url, client_id="anna").next_sample("random", {})
    assert (ohif["strategy"], slicer["strategy"]) == ("pairwise_dice", "random")
    assert ohif["id"] != slicer["id"]


def test_scoring_goes_on_in_the_background_and_is_taken_up_when_it_is_killed(url, place):
    eventually(lambda: queue_of(url)["scored"] == CASES, "scoring all cases")
    eventually(lambda: not queue_of(url)["scoring"]["running"], "the end of scoring")
    for index in range(CASES, CASES + 4):
        write_case(place.studies, f"late {index}", doubtful(7) + index)
    pid = eventually(lambda: queue_of(url)["scoring"]["pid"], "another child")
    os.kill(pid, signal.SIGKILL)
    words = "scoring was ended by SIGKILL from outside the server; it starts again after 5 s"
    eventually(lambda: queue_of(url)["scoring"]["trouble"] == words, "the report")
    eventually(lambda: queue_of(url)["scored"] == CASES + 4, "scoring the new cases")
    assert queue_of(url)["total"] == CASES + 4
    eventually(lambda: queue_of(url)["scoring"]["trouble"] == "", "the end of the trouble")


def test_when_all_is_scored_the_reason_names_the_structure_that_the_members_are_unsure_about(url):
    answer = MONAILabelClient(url, client_id="clara").next_sample("most_uncertain", {})
    assert answer["scored"] == answer["total"]
    assert answer["score"] > 0
    assert "members unsure about organ" in answer["PatientID"]


def test_an_unknown_strategy_is_refused_with_the_known_ones(url):
    answer = requests.post(f"{url}/activelearning/oracle", json={"client_id": "anna"}, timeout=60)
    assert answer.status_code == 404
    assert "no strategy is called 'oracle'; there are pairwise_dice, " in answer.json()["detail"]


def test_leases_outlive_the_server_and_the_control_arm_is_drawn_by_chance(url, place, tmp_path):
    # Not the folders of the running server: a copy, as after its crash.
    app_dir, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(place.app_dir, app_dir)
    shutil.copytree(place.studies, studies)
    total = queue_of(url)["total"]
    held = queue_of(url)["leases"]
    assert held > 0
    with running_server(app_dir, studies, ["control_share", "1", "scoring", "no"]) as again:
        assert queue_of(again)["leases"] == held
        taken = [
            requests.post(
                f"{again}/activelearning/most_uncertain", json={"client_id": f"reader {n}"}, timeout=60
            ).json()
            for n in range(total - held + 1)
        ]
        assert {answer["arm"] for answer in taken[:-1]} == {"control"}
        assert len({answer["id"] for answer in taken[:-1]}) == total - held
        # All cases are with somebody: 3D Slicer says so in a friendly way.
        assert taken[-1] == {}
        assert not queue_of(again)["scoring"]["running"]
