"""Slides are scored beside the server, which answers meanwhile; what comes of it is there for viewers."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from overread.imaging.slides.slide import open_slide
from support.blobs import LIKELY_AT, TUMOUR, UNLIKELY_AT, publish_blob_champion, write_blobs
from support.qupath import Server, body, named, outlines, patch, wish
from support.servers import app_copy, running_server

pytestmark = pytest.mark.slow

# The scored outlines lie on cells of 8 µm, 16 of the slide's pixels.
CELL_PX = 16


def test_light_requests_are_answered_while_a_rectangle_is_computed(server: Server):
    light = [
        ("GET", "/info/", None),
        ("GET", "/overread/state", None),
        ("POST", "/activelearning/foreground_random", wish("large")),
        ("GET", "/datastore/?output=stats", None),
    ]
    finished = threading.Event()
    answered: list[tuple[str, float, float]] = []

    def keep_asking() -> None:
        while not finished.is_set():
            for method, path, said in light:
                sent = time.monotonic()
                answer = requests.request(method, server.url + path, data=said, timeout=60)
                assert answer.status_code in (200, 404), answer.text
                answered.append((path, sent, time.monotonic()))

    # The next patch of this slide needs no first look.
    server.next("foreground_random", wish("large"))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(keep_asking)
        try:
            answer = server.annotate(body(measure="variance"), image="large", output="json")
            ended = time.monotonic()
        finally:
            finished.set()
        asking.result()
    began = ended - answer.json()["latencies"]["infer"]
    during = {path for path, sent, received in answered if sent > began and received < ended}
    assert during == {path for _, path, _ in light}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has scored its two slides."""
    base = tmp_path_factory.mktemp("scored")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    publish_blob_champion(app_dir)
    write_blobs(studies / "one.tif")
    write_blobs(studies / "two.tif", blobs=())
    (studies / "broken.svs").write_bytes(b"no slide")
    with running_server(app_dir, studies, ["max_region_px", "200000", "control_share", "0"]) as url:
        here = Server(url, app_dir, studies)
        deadline = time.monotonic() + 180
        while state_of(here)["queue"]["scored"] < 2 or state_of(here)["queue"]["scoring"]["running"]:
            assert time.monotonic() < deadline, state_of(here)
            time.sleep(0.5)
        yield here


def state_of(server: Server) -> dict[str, Any]:
    return server.get("/overread/state").json()


def fetched(server: Server, name: str) -> bytes:
    answer = server.get(f"/overread/slides/one/{name}")
    assert answer.ok, answer.text
    return answer.content


def test_the_state_lists_what_there_is_of_each_slide(scored: Server):
    files = ["uncertainty.tif", "thumbnail.png", "labels.geojson"]
    assert state_of(scored)["slides"] == {
        "one": {"state": "scored", "files": files},
        "two": {"state": "scored", "files": files},
    }


def test_doubt_can_be_laid_over_the_slide(scored: Server, tmp_path: Path):
    path = tmp_path / "uncertainty.tif"
    path.write_bytes(fetched(scored, "uncertainty.tif"))
    with open_slide(path) as doubt:
        assert doubt.pixel_size.um == pytest.approx(8.0)
        shown = doubt.read(doubt.bounds, doubt.pixel_size)[..., 0]
    x, y = (int(part / CELL_PX) for part in UNLIKELY_AT.centre)
    assert shown[y, x] > 200
    assert np.count_nonzero(shown > 200) * CELL_PX**2 <= 1.5 * (UNLIKELY_AT.area_px + LIKELY_AT.area_px)


def test_a_thumbnail_and_outlines_are_there(scored: Server):
    picture = Image.open(io.BytesIO(fetched(scored, "thumbnail.png")))
    assert picture.width > picture.height
    found = json.loads(fetched(scored, "labels.geojson"))
    assert {f["properties"]["classification"]["name"] for f in found["features"]} == {TUMOUR}


def test_a_slide_that_is_too_large_to_compute_is_answered_from_the_scoring(scored: Server):
    answer = scored.annotate(body(), image="one", output="json").json()
    assert answer["from"] == "the background scoring"
    found = outlines(scored.annotate(body(), image="one"))
    tumours = named(found, TUMOUR)
    assert len(tumours) == 2
    assert any(
        np.abs(np.array(t.bounds) - [LIKELY_AT.x, LIKELY_AT.y, LIKELY_AT.right, LIKELY_AT.bottom]).max()
        <= 2 * CELL_PX
        for t in tumours
    )
    assert len(named(found, "doubt high")) == 2


def test_what_was_not_scored_is_not_answered_from_it(scored: Server):
    answer = scored.annotate(body(members="1"), image="one")
    assert answer.status_code == 400
    assert "wait for the background scoring" in answer.json()["detail"]


def test_the_next_patch_rests_on_the_scoring(scored: Server):
    answer = scored.next("most_uncertain", wish("one"))
    assert not answer.json()["is_coarse"]
    region = patch(answer)
    assert region.overlaps(LIKELY_AT) or region.overlaps(UNLIKELY_AT)
    sample = scored.next("most_uncertain", wish("")).json()
    assert sample["id"] == "one"


def test_it_goes_on_with_a_slide_that_comes_later(scored: Server):
    write_blobs(scored.studies / "three.tif")
    deadline = time.monotonic() + 120
    while state_of(scored)["slides"].get("three", {}).get("state") != "scored":
        assert time.monotonic() < deadline, state_of(scored)
        time.sleep(0.5)
