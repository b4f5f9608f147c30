"""Claim: the own address shows how the server stands, and the list of addresses works, with nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import requests

from overread.server.access.rules import rule_for
from overread.server.front.page import MOST_SLIDES, Facts, Model, Viewer, front_page
from support.pages import Text

QUEUE = {
    "recipe": "liver",
    "strategy": "clasp_pe",
    "scored": 3,
    "total": 7,
    "waiting": 4,
    "leases": 1,
    "stop": None,
}
TRAINING = {"state": "", "share": 0.0, "stage": "", "message": "", "decision": None}
FACTS = Facts(
    title="Overread - Radiology",
    version="9.9",
    address="http://gpu-box:8000",
    health={"status": "ok", "checks": {"database": {"ok": True, "message": ""}}},
    viewers=[Viewer("OHIF", "in this browser", "/ohif/"), Viewer("3D Slicer", "enter as server:")],
    models=[Model("liver", ["liver", "lesion"], "0123456789ab", "2026-11-26 21:45", 5)],
    labels={"liver": 12},
    state={"queue": QUEUE, "training": {}},
)


def test_it_says_who_serves_what_since_when_and_how_to_get_there():
    page = Text(front_page(FACTS))
    for said in ("all in order", "liver, lesion", "0123456789ab", "2026-11-26 21:45", "http://gpu-box:8000"):
        assert said in page.read
    assert re.search(r"enter as server: +http://gpu-box:8000", page.read)
    assert "3 of 7 images looked at, 4 without a label, 1 with a reader now" in page.read
    assert "/ohif/" in page.fetched
    assert "Log out" not in page.read


def test_nothing_is_fetched_from_elsewhere_and_no_script_runs():
    page = Text(front_page(FACTS))
    assert page.fetched
    assert all(address.startswith("/") and not address.startswith("//") for address in page.fetched)
    assert "script" not in page.tags


def test_troubles_training_and_an_absent_pacs_are_said_in_words():
    running = TRAINING | {"state": "running", "share": 0.25, "stage": "members"}
    decision = {"promoted": False, "reason": "worse in hospital B"}
    pacs = {"address": "http://pacs", "reachable": False, "series": 0, "fetched": 0, "labels_waiting": 2}
    pacs |= {"segmentations_refused": [], "labels_refused": {}}
    state = FACTS.state | {
        "training": {"liver": running, "lung": TRAINING | {"decision": decision, "state": "finished"}},
        "pacs": pacs | {"trouble": "http://pacs does not answer"},
        "queue": QUEUE | {"stop": {"stop": True, "because": "little was corrected"}},
    }
    health = {"status": "failing", "checks": {"store": {"ok": False, "message": "the disk is full"}}}
    said = Text(front_page(replace(FACTS, state=state, health=health, person="anna"))).read
    for sentence in (
        "out of order",
        "the disk is full",
        "Not promoted: worse in hospital B",
        "does not answer (http://pacs does not answer); 2 labels wait",
        "little was corrected",
        "anna Log out",
    ):
        assert sentence in said
    assert 'value="0.25"' in front_page(replace(FACTS, state=state))


def test_what_was_drawn_in_a_viewer_and_not_taken_in_is_told_with_its_reason():
    drawn = {
        "segmentation": "1.2.3",
        "study": "1.9",
        "name": "Carla's spleen",
        "drew": "Carla",
        "because": "no class",
    }
    unnamed = drawn | {"segmentation": "1.2.4", "name": "", "drew": ""}
    pacs = {"address": "http://pacs", "reachable": True, "series": 4, "fetched": 4, "labels_waiting": 0}
    pacs |= {"segmentations_refused": [drawn, unnamed], "labels_refused": {"ct/label.nii.gz": "disk full"}}
    page = Text(front_page(replace(FACTS, state=FACTS.state | {"pacs": pacs})))
    assert "Carla's spleen Carla open no class" in page.read
    assert "The PACS does not take ct/label.nii.gz : disk full" in page.read
    assert page.read.index("1.2.4 – open") < page.read.index("Carla's spleen")
    assert "/ohif/segmentation?StudyInstanceUIDs=1.9" in page.fetched


def test_before_the_first_model_it_says_how_to_get_one():
    state = FACTS.state | {"queue": QUEUE | {"recipe": "", "scored": 0}}
    said = Text(front_page(replace(FACTS, models=[], state=state))).read
    assert "overread train NAME --data FOLDER" in said
    assert "7 images; nothing is asked before there is a model." in said


def test_slides_come_with_their_pictures_and_a_thousand_are_not_all_shown():
    files = ["uncertainty.tif", "thumbnail.png"]
    slides = {f"slide {i}": {"state": "scored", "files": files} for i in range(MOST_SLIDES + 5)}
    slides["slide 0"] = {"state": "waiting", "files": [], "problem": "no pyramid"}
    page = Text(front_page(replace(FACTS, state=FACTS.state | {"slides": slides})))
    assert "/overread/slides/slide%201/thumbnail.png" in page.fetched
    assert "/overread/slides/slide%201/uncertainty.tif" in page.fetched
    assert "slide 0 no pyramid" in page.read
    assert "and 5 more" in page.read
    assert page.tags.count("figure") == MOST_SLIDES


def test_names_that_are_markup_stay_text():
    hostile = "<script>alert(1)</script>"
    model = Model(hostile, [hostile], "0", "", 1)
    slides = {hostile: {"state": "scored", "files": ["thumbnail.png"]}}
    page = Text(
        front_page(replace(FACTS, models=[model], person=hostile, state=FACTS.state | {"slides": slides}))
    )
    assert "script" not in page.tags
    assert page.read.count(hostile) == 4


def test_what_is_remembered_of_people_is_led_to_where_models_remember():
    assert "/preferences" not in Text(front_page(FACTS)).fetched
    assert "/preferences" in Text(front_page(replace(FACTS, remembers=True))).fetched


@pytest.mark.slow
def test_the_running_server_shows_it_and_its_addresses(server):
    answer = requests.get(f"{server.url}/", timeout=60)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = Text(answer.text)
    assert "organ, tumour" in page.read
    assert server.url in page.read
    for address in set(page.fetched) - {"/logout"}:
        assert requests.get(server.url + address, timeout=60).status_code == 200, address

    listed = Text(requests.get(f"{server.url}/docs", timeout=60).text)
    assert {"/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/favicon.ico"} == set(listed.fetched)
    for address in listed.fetched:
        assert len(requests.get(server.url + address, timeout=60).content) > 1000
    assert requests.get(f"{server.url}/docs/core.py", timeout=60).status_code == 422
    assert requests.get(f"{server.url}/docs/..%2f..%2fcore.py", timeout=60).status_code >= 400


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/swagger-ui-bundle.js"])
def test_whoever_may_read_may_see_it(path):
    assert rule_for("GET", path).role == "reader"
