"""QuPath's *Annotations…* gets outlines of classes and doubt, in the slide's pixels, and every click is honoured."""

from __future__ import annotations

import json

import pytest
import requests
from monailabel.client import MONAILabelClient
from PIL import Image
from shapely.geometry import Point, shape

from overread.domain import Region
from support.blobs import LIKELY_AT, SURE_AT, TUMOUR, UNLIKELY_AT, blob_picture
from support.qupath import SLIDE, Server, around, body, is_near, middle, named, outlines

pytestmark = pytest.mark.slow

# In QuPath a colon would make a class below another.
HIGH = "doubt high"


def test_classes_and_doubt_come_as_outlines_in_the_slides_pixels(server: Server):
    found = outlines(server.annotate(body(around(SURE_AT, LIKELY_AT))))
    tumours = named(found, TUMOUR)
    assert len(tumours) == 2
    assert is_near(min(tumours, key=lambda t: t.bounds[0]), SURE_AT)
    assert is_near(max(tumours, key=lambda t: t.bounds[0]), LIKELY_AT)
    (doubtful,) = named(found, HIGH)
    assert is_near(doubtful, LIKELY_AT)
    assert {name for name, _ in found} == {TUMOUR, HIGH}


def test_what_one_member_sees_is_doubt_and_no_tumour(server: Server):
    found = outlines(server.annotate(body(around(UNLIKELY_AT))))
    assert [name for name, _ in found] == [HIGH]
    assert is_near(found[0][1], UNLIKELY_AT)


def test_json_is_geojson_that_qupath_opens_with_the_facts_beside(server: Server):
    answer = server.annotate(body(around(SURE_AT)), output="json").json()
    assert answer["type"] == "FeatureCollection"
    (feature,) = answer["features"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == TUMOUR
    assert is_near(shape(feature["geometry"]), SURE_AT)
    assert answer["members"] == 3
    assert answer["um_per_px"] == pytest.approx(0.5)
    assert not answer["um_per_px_is_assumed"]
    assert set(answer["latencies"]) == {"total", "pre", "infer", "post"}


def test_the_readers_choices_are_followed(server: Server):
    region = around(LIKELY_AT)
    assert {name for name, _ in outlines(server.annotate(body(region, doubt="off")))} == {TUMOUR}
    assert {name for name, _ in outlines(server.annotate(body(region, doubt="bands only")))} == {HIGH}
    assert server.annotate(body(region, members="1"), output="json").json()["members"] == 1


def test_small_objects_are_left_out(server: Server):
    least = LIKELY_AT.area_px * 2
    assert outlines(server.annotate(body(around(LIKELY_AT), min_poly_area=least))) == []


def test_a_positive_click_adds_what_one_member_saw(server: Server):
    region = around(UNLIKELY_AT)
    (tumour,) = named(outlines(server.annotate(body(region, [middle(UNLIKELY_AT)]))), TUMOUR)
    assert is_near(tumour, UNLIKELY_AT)


def test_a_negative_click_removes_what_not_all_members_saw(server: Server):
    found = outlines(server.annotate(body(around(LIKELY_AT), (), [middle(LIKELY_AT)])))
    assert named(found, TUMOUR) == []


def test_a_negative_click_removes_even_what_all_members_saw(server: Server):
    assert outlines(server.annotate(body(around(SURE_AT), (), [middle(SURE_AT)]))) == []


def test_where_no_member_saw_anything_a_click_draws_a_nucleus(server: Server):
    region = Region(1000, 1000, 300, 300)
    ((name, disc),) = outlines(server.annotate(body(region, [[1150, 1120]])))
    assert name == TUMOUR
    assert disc.contains(Point(1150.5, 1120.5))
    # 8 µm are 16 pixels.
    assert is_near(disc, Region(1150 - 16, 1120 - 16, 33, 33))


def test_a_click_between_two_structures_leaves_the_other_alone(server: Server):
    region = around(SURE_AT, LIKELY_AT)
    found = outlines(server.annotate(body(region, [middle(SURE_AT)], [middle(LIKELY_AT)])))
    (tumour,) = named(found, TUMOUR)
    assert is_near(tumour, SURE_AT)


def test_a_later_click_wins_over_an_earlier_one_at_the_same_place(server: Server):
    region, place = Region(1300, 1000, 150, 150), [1370, 1080]
    assert outlines(server.annotate(body(region, (), [place]))) == []
    assert len(named(outlines(server.annotate(body(region, [place], [place]))), TUMOUR)) == 1


def test_the_whole_slide_is_answered_where_it_is_small_enough(server: Server):
    answer = server.annotate(body())
    assert len(named(outlines(answer), TUMOUR)) == 2


def test_a_picture_that_the_server_does_not_have_is_answered_in_its_own_pixels(server: Server, tmp_path):
    region = around(SURE_AT)
    cut = blob_picture()[region.y : region.bottom, region.x : region.right]
    path = tmp_path / "region of interest.png"
    Image.fromarray(cut).save(path)
    with path.open("rb") as file:
        answer = requests.post(
            f"{server.url}/infer/wsi_v2/blobs",
            params={"output": "asap"},
            files={"file": (path.name, file, "image/png")},
            data={"wsi": body()},
            timeout=120,
        )
    ((name, tumour),) = outlines(answer)
    assert name == TUMOUR
    assert is_near(tumour, Region(60, 60, SURE_AT.width, SURE_AT.height))


def test_the_python_client_gets_the_same_by_form_and_by_json(server: Server):
    client = MONAILabelClient(server.url, client_id="anna")
    asked = json.loads(body(around(SURE_AT)))
    _, by_form = client.infer("blobs", SLIDE, asked)
    _, by_json = client.wsi_infer("blobs", SLIDE, asked)
    assert len(json.loads(by_form)["features"]) == len(json.loads(by_json)["features"]) == 1


@pytest.mark.parametrize(
    ("status", "query", "asked", "words"),
    [
        (404, {"image": "nobody"}, body(), "no image is called 'nobody'"),
        (400, {"image": ""}, body(), "name an image of the studies folder, or send a file"),
        (400, {}, body(Region(5000, 5000, 9, 9)), "lies outside the slide, which has 2400 x 1600 pixels"),
        (400, {}, body(doubt="loud"), "doubt 'loud' is not offered"),
        (400, {}, body(size=[0, 5]), "the rectangle is empty"),
        (400, {}, json.dumps({"params": []}), "params is a JSON list"),
        (422, {}, "[]", ""),
    ],
)
def test_what_cannot_be_meant_is_refused(server: Server, status, query, asked, words):
    answer = server.annotate(asked, **query)
    assert answer.status_code == status, answer.text
    assert words in str(answer.json()["detail"])


def test_an_unknown_model_is_refused_with_the_known_ones(refused):
    sentence = refused(404, "POST", "/infer/wsi/other", params={"image": SLIDE}, data=body())
    assert sentence == "no model is called 'other'; there are blobs"


def test_sessions_are_for_volumes(server: Server):
    files = {"files": ("slide.png", b"a picture")}
    assert requests.put(f"{server.url}/session/", files=files, timeout=60).status_code == 404


def test_a_file_that_is_no_slide_is_refused(refused):
    files = {"file": ("notes.txt", b"hello")}
    sentence = refused(400, "POST", "/infer/wsi_v2/blobs", files=files, data={"wsi": body()})
    assert "notes.txt is of no kind of slide" in sentence
    files = {"file": ("broken.png", b"hello")}
    assert "broken.png" in refused(400, "POST", "/infer/wsi_v2/blobs", files=files, data={"wsi": body()})
