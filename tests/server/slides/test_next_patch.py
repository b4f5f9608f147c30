"""QuPath's *Next Patch* draws a rectangle where the members disagree, also on a slide that nobody looked at before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from overread.domain import PatchLocation
from overread.queue.patches.strategies import PATCH_STRATEGIES
from overread.state.database import Database, default_path
from overread.state.labels import labels
from overread.state.servings import servings
from overread.state.turns import turns_of
from support.blobs import LIKELY_AT, SURE_AT, TUMOUR, UNLIKELY_AT
from support.qupath import CLIENT, PATCH, SLIDE, Server, around, body, patch, wish


def test_info_is_what_qupaths_reader_of_json_can_take(server: Server):
    info = server.get("/info/").json()
    assert info["labels"] == [TUMOUR, "doubt moderate", "doubt high"]
    model = info["models"]["blobs"]
    assert model["labels"] == {TUMOUR: 1, "doubt moderate": 2, "doubt high": 3}
    assert (model["type"], model["dimension"], model["pathology"]) == ("segmentation", 2, True)
    assert set(info["strategies"]) == set(PATCH_STRATEGIES)
    assert next(iter(info["strategies"])) == "sure_and_unsure"
    for listed in (*info["models"].values(), *info["trainers"].values()):
        for option in listed["config"].values():
            assert option is not None
            assert not isinstance(option, list) or len({type(entry) for entry in option}) == 1
    # Slides can be looked at further, however many labels they have.
    assert info["datastore"]["total"] == 4


def test_a_slide_that_nobody_looked_at_is_answered_from_a_first_look(server: Server):
    answer = server.next("most_uncertain", wish())
    region = patch(answer)
    facts = answer.json()
    assert [region.width, region.height] == PATCH
    assert all(isinstance(number, int) for number in facts["bbox"])
    assert facts["id"] == SLIDE
    assert Path(facts["path"]) == server.studies / f"{SLIDE}.tif"
    assert facts["name"] == f"{SLIDE}.tif"
    assert facts["reason"]
    assert (facts["strategy"], facts["arm"], facts["is_coarse"]) == ("most_uncertain", "strategy", True)
    assert region.overlaps(LIKELY_AT) or region.overlaps(UNLIKELY_AT)
    again = patch(server.next("most_uncertain", wish()))
    assert not again.overlaps(region)
    assert server.get("/overread/state").json()["slides"][SLIDE] == {"state": "first look", "files": []}


@pytest.mark.parametrize("strategy", sorted(PATCH_STRATEGIES))
def test_every_strategy_answers(server: Server, strategy):
    answer = server.next(strategy, wish("large"))
    assert answer.json()["strategy"] == strategy
    assert strategy == "adaptive_box" or patch(answer).width == PATCH[0]


def test_next_sample_names_the_slide_that_holds_the_next_patch(server: Server):
    answer = server.next("most_uncertain", wish("", image_size=[0, 0])).json()
    assert (server.studies / answer["name"]).is_file()
    assert Path(answer["name"]).stem == answer["id"]


def test_without_a_size_the_server_chooses_one(server: Server):
    answer = server.next("most_uncertain", json.dumps({"image": "large"}))
    assert patch(answer).width > 0


def test_when_nothing_is_left_a_sentence_says_so(server: Server):
    asked = wish("plain", patch_size=[1400, 1000])
    answers = [server.next("most_uncertain", asked) for _ in range(12)]
    assert answers[0].ok
    last = answers[-1]
    assert last.status_code == 404
    assert "slide plain" in last.json()["detail"]


@pytest.mark.parametrize(
    ("status", "strategy", "asked", "words"),
    [
        (404, "oracle", wish(), "no strategy is called 'oracle'; there are sure_and_unsure, "),
        (404, "random", wish("nobody"), "no image is called 'nobody'"),
        (400, "random", wish(patch_size=[0, 256]), "patch_size is [0, 256], expected 2 numbers from 1"),
        (400, "random", wish("../x"), "looks like a path"),
    ],
)
def test_what_cannot_be_meant_is_refused(server: Server, status, strategy, asked, words):
    answer = server.next(strategy, asked)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_a_client_without_a_name_is_one_and_the_same_for_servings_turns_and_labels(server: Server):
    region = patch(server.next("most_uncertain", wish("large")))
    assert server.annotate(body(around(SURE_AT)), image="large").ok
    corners = [(region.x + 10, region.y + 10), (region.x + 90, region.y + 10), (region.x + 50, region.y + 90)]
    coordinates = "".join(
        f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>' for order, (x, y) in enumerate(corners)
    )
    xml = (
        '<ASAP_Annotations><Annotations Name="" Description="" X="0" Y="0" W="0" H="0">'
        f'<Annotation Name="{TUMOUR}" Type="Polygon" PartOfGroup="{TUMOUR}" Color="#ff0000">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    answer = requests.put(
        f"{server.url}/datastore/label",
        params={"image": "large"},
        files={"label": ("large.xml", xml, "application/xml")},
        data={"params": "{}"},
        timeout=60,
    )
    assert answer.ok, answer.text
    database = Database.open(default_path(server.app_dir))
    try:
        with database.reading() as c:
            served = [s for s in servings(c) if s.case_id == PatchLocation("large", region).name]
            assert {(s.client_id, s.outcome) for s in served} == {(CLIENT, "submitted")}
            assert len(turns_of(c, "large", CLIENT)) >= 1
            assert {(row.client_id, row.rater) for row in labels(c)} == {(CLIENT, CLIENT)}
    finally:
        database.close()
    shown = requests.get(
        f"{server.url}/datastore/label", params={"label": "large", "tag": "final"}, timeout=60
    )
    assert TUMOUR in shown.text


def test_what_a_huge_rectangle_needs_is_said(server: Server, refused: Callable[..., str]):
    path, asked = "/infer/wsi/blobs", {"image": "huge", "output": "asap"}
    sentence = refused(400, "POST", path, params=asked, data=body())
    assert sentence == (
        "the rectangle of 5000 x 4500 pixels holds 5.625 million of the model's pixels, and one request may have "
        "4 million computed (--conf max_region_px): draw a smaller one, such as 4000 x 4000, or wait for the "
        "background scoring of the whole slide"
    )
    sentence = refused(400, "POST", path, params=asked, data=body(None, [[9, 9]]))
    assert sentence.endswith("draw a smaller one, such as 4000 x 4000, around the clicks")


def test_files_that_are_not_there_yet_are_named(refused: Callable[..., str]):
    sentence = refused(404, "GET", "/overread/slides/plain/uncertainty.tif")
    assert sentence.startswith("uncertainty.tif of slide 'plain' is not there yet for model 'blobs'")
    sentence = refused(404, "GET", "/overread/slides/plain/secrets.txt")
    assert sentence == (
        "no file 'secrets.txt' is kept of slides; there are uncertainty.tif, thumbnail.png, labels.geojson"
    )
