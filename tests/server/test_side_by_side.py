"""Clients do not wait for each other's inferences with anything but inferences."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from overread.imaging.volumes import write_nifti
from support.servers import marker_voxels, oblique_grid, write_case


@pytest.fixture(scope="module")
def large(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A case that takes some seconds."""
    voxels = np.zeros((160, 160, 64), dtype=np.float32)
    voxels[40:120, 40:120, 16:48] = 90
    path = write_case(tmp_path_factory.mktemp("large"), "large", voxels)
    answer = requests.put(
        f"{server.url}/datastore/image", files={"file": (path.name, path.read_bytes())}, timeout=60
    )
    assert answer.json() == {"image": "large"}
    yield "large"
    requests.delete(f"{server.url}/datastore/image", params={"id": "large"}, timeout=60)


def ask(url: str, image: str) -> tuple[float, float]:
    """When the computation began and when the answer was there, on the monotonic clock."""
    answer = requests.post(f"{url}/infer/phantom", params={"image": image, "output": "json"}, timeout=120)
    finished = time.monotonic()
    assert answer.ok, answer.text
    return finished - answer.json()["latencies"]["infer"], finished


def test_light_requests_are_answered_while_an_inference_computes(server, large):
    light = [
        ("GET", "/info/"),
        ("POST", "/activelearning/random"),
        ("GET", "/train/?check_if_running=true"),
        ("GET", "/datastore/image?image=first"),
        ("GET", "/auth/"),
    ]
    finished = threading.Event()
    answered: list[tuple[str, float, float]] = []

    def keep_asking() -> None:
        while not finished.is_set():
            for method, path in light:
                sent = time.monotonic()
                assert requests.request(method, server.url + path, timeout=60).status_code in (200, 404)
                answered.append((path, sent, time.monotonic()))

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(keep_asking)
        try:
            began, ended = ask(server.url, large)
        finally:
            finished.set()
        asking.result()
    during = {path for path, sent, received in answered if sent > began and received < ended}
    assert during == {path for _, path in light}


def test_inferences_that_come_together_are_all_answered(server, large, case):
    with ThreadPoolExecutor() as pool:
        spans = list(pool.map(lambda image: ask(server.url, image), [large, case, case]))
    assert len(spans) == 3


def test_labels_submitted_together_are_all_kept(server, tmp_path: Path):

    grid = oblique_grid(marker_voxels().shape)
    image, label = write_case(tmp_path, "image"), tmp_path / "label.nii.gz"
    write_nifti(label, np.zeros(grid.shape, dtype=np.uint8), grid)
    cases = [f"together {index}" for index in range(8)]

    def work(case: str) -> None:
        for path, field, file in (("image", "file", image), ("label", "label", label)):
            files = {field: (file.name, file.read_bytes())}
            url = f"{server.url}/datastore/{path}"
            assert requests.put(url, params={"image": case}, files=files, timeout=60).ok

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(work, cases))
    kept = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert {case for case in cases if "final" in kept[case]["labels"]} == set(cases)
    for case in cases:
        requests.delete(f"{server.url}/datastore/image", params={"id": case}, timeout=60)
