"""Clients do not wait for each other's inferences with anything but inferences."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from support.servers import app_copy, publish_threshold, running_server, write_case

MEMBERS = 80


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory):
    """A server whose one model needs some seconds for the case `large`."""
    base = tmp_path_factory.mktemp("busy")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir, "slow", offsets=tuple(np.linspace(-5, 5, MEMBERS)))
    write_case(studies, "large", np.random.default_rng(0).uniform(0, 200, (96, 96, 48)).astype(np.float32))
    write_case(studies, "small")
    with running_server(app_dir, studies) as url:
        yield url


def ask(url: str, image: str) -> tuple[float, float]:
    """When the computation began and when the answer was there, on the monotonic clock."""
    answer = requests.post(f"{url}/infer/slow", params={"image": image, "output": "json"}, timeout=120)
    finished = time.monotonic()
    assert answer.ok, answer.text
    return finished - answer.json()["latencies"]["infer"], finished


def test_light_requests_are_answered_while_an_inference_computes(busy):
    light = [
        ("GET", "/info/"),
        ("POST", "/activelearning/random"),
        ("GET", "/train/?check_if_running=true"),
        ("GET", "/datastore/image?image=small"),
        ("GET", "/auth/"),
    ]
    finished = threading.Event()
    answered: list[tuple[str, float, float]] = []

    def keep_asking() -> None:
        while not finished.is_set():
            for method, path in light:
                sent = time.monotonic()
                assert requests.request(method, busy + path, timeout=60).status_code in (200, 404)
                answered.append((path, sent, time.monotonic()))

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(keep_asking)
        try:
            began, ended = ask(busy, "large")
        finally:
            finished.set()
        asking.result()
    during = {path for path, sent, received in answered if sent > began and received < ended}
    assert during == {path for _, path in light}


def test_two_inferences_at_once_are_both_right(busy):
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda image: ask(busy, image), ["large", "small", "large", "small"]))
    assert len(answers) == 4
