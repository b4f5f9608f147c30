"""With a MedUHIP champion, QuPath's points are turns: the network answers to each, and every one is honoured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import requests
import torch
from shapely.geometry import Point, Polygon

from overread.ensemble.plan import Normalisation, Plan
from overread.learning.champions import ChampionStore
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import save_model
from support.blobs import CLASSES, MODEL_PIXEL, SURE_AT, TUMOUR
from support.qupath import SLIDE, Server, around, body, named, outlines

pytestmark = pytest.mark.slow

# Logits that they give tumour everywhere, until somebody clicks.
RECIPES = {"turning": -1.0, "sure-of-nothing": -10.0, "sure-of-tumour": 10.0}
RECIPE = "turning"


@pytest.fixture(scope="module")
def turning(server: Server) -> Iterator[Server]:
    """The server with further champions: networks that see tumour nowhere, or everywhere."""
    for recipe, logit in RECIPES.items():
        publish(server, recipe, logit)
    yield server
    for recipe in RECIPES:
        shutil.rmtree(server.app_dir / "model" / recipe)


def publish(server: Server, recipe: str, logit: float) -> None:
    three = (3, 3)
    plan = Plan(
        spacing_mm=(1.0, 1.0),
        patch=(64, 64),
        batch=1,
        kernels=(three,) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        features=(4, 4, 4),
        normalisation=(Normalisation("rgb"),) * 3,
        mirror_axes=(),
        classes=2,
        um_per_px=MODEL_PIXEL.um,
    )
    torch.manual_seed(0)
    model = MedUHIP(Configuration(channels=3, width=4, samples=6, components=3, dimension=4))
    with torch.no_grad():
        for decoder in model.backend.decoders:  # type: ignore[attr-defined]
            decoder.plain.weight.zero_()
            decoder.plain.bias.fill_(logit)
            torch.nn.init.normal_(decoder.last.weight, std=0.1)
    staging = server.app_dir / "staging" / recipe
    save_model(staging, model, plan, name=recipe, classes=CLASSES, channels=("R", "G", "B"), training={})
    ChampionStore(server.app_dir / "model").publish(recipe, staging)
    shutil.rmtree(staging.parent)


def annotate(server: Server, asked: str, recipe: str = RECIPE) -> requests.Response:
    query = {"image": SLIDE, "output": "asap"}
    return requests.post(f"{server.url}/infer/wsi/{recipe}", params=query, data=asked.encode(), timeout=120)


def holds(found: list[Polygon], point: list[int]) -> bool:
    return any(polygon.contains(Point(point[0] + 0.5, point[1] + 0.5)) for polygon in found)


def test_points_are_honoured_one_after_another_and_taken_back(turning: Server):
    region = around(SURE_AT)
    inside, beside = [480, 380], [500, 400]

    def tumours(positive: list[list[int]], negative: list[list[int]]):
        asked = body(region, positive, negative)
        return named(outlines(annotate(turning, asked)), TUMOUR)

    assert tumours([], []) == []
    one = tumours([inside], [])
    assert holds(one, inside)
    two = tumours([inside], [beside])
    assert holds(two, inside)
    assert not holds(two, beside)
    both = tumours([inside, beside], [])
    assert holds(both, inside)
    assert holds(both, beside)
    # The same points, the same answer; a point that is taken back leaves nothing behind.
    assert tumours([inside], []) == one
    assert tumours([], []) == []


@pytest.mark.parametrize("recipe", ["sure-of-nothing", "sure-of-tumour"])
def test_a_click_that_a_sure_network_hardly_follows_is_seen_in_the_outlines_all_the_same(
    turning: Server, recipe: str
):
    # A network's logit of 10 against it moves one of its pixels, four of the slide's; QuPath asks for 30 at least.
    region = around(SURE_AT)
    inside, beside = [480, 380], [500, 400]
    for positive, negative in (([inside], []), ([], [inside]), ([inside], [beside]), ([beside], [inside])):
        asked = body(region, positive, negative)
        found = named(outlines(annotate(turning, asked, recipe)), TUMOUR)
        assert all(holds(found, point) for point in positive)
        assert not any(holds(found, point) for point in negative)
    # Of clicks beside each other each has as much room as the other leaves it.
    close = [[480, 380], [484, 380]]
    found = named(outlines(annotate(turning, body(region, close[:1], close[1:]), recipe)), TUMOUR)
    assert [holds(found, point) for point in close] == [True, False]


def test_it_is_listed_among_the_models_for_slides(turning: Server):
    answer = requests.get(f"{turning.url}/info/", timeout=60).json()
    assert answer["models"][RECIPE]["pathology"] is True
