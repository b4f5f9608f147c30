"""With a MedUHIP champion, QuPath's points are turns: the network answers to each, and every one is honoured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import requests
import torch
from shapely.geometry import Point

from overread.ensemble.plan import Normalisation, Plan
from overread.learning.champions import ChampionStore
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import save_model
from support.blobs import CLASSES, MODEL_PIXEL, SURE_AT, TUMOUR
from support.qupath import SLIDE, Server, around, body, named, outlines

pytestmark = pytest.mark.slow

RECIPE = "turning"


@pytest.fixture(scope="module")
def turning(server: Server) -> Iterator[Server]:
    """The server with a further champion: a network that sees tumour nowhere until somebody clicks."""
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
            decoder.plain.bias.fill_(-1.0)
            torch.nn.init.normal_(decoder.last.weight, std=0.1)
    staging = server.app_dir / "staging" / RECIPE
    save_model(staging, model, plan, name=RECIPE, classes=CLASSES, channels=("R", "G", "B"), training={})
    ChampionStore(server.app_dir / "model").publish(RECIPE, staging)
    shutil.rmtree(staging.parent)
    yield server
    shutil.rmtree(server.app_dir / "model" / RECIPE)


def annotate(server: Server, asked: str) -> requests.Response:
    query = {"image": SLIDE, "output": "asap"}
    return requests.post(f"{server.url}/infer/wsi/{RECIPE}", params=query, data=asked.encode(), timeout=120)


def test_points_are_honoured_one_after_another_and_taken_back(turning: Server):
    region = around(SURE_AT)
    inside, beside = [480, 380], [500, 400]

    def tumours(positive: list[list[int]], negative: list[list[int]]):
        asked = body(region, positive, negative, min_poly_area=0)
        return named(outlines(annotate(turning, asked)), TUMOUR)

    def holds(found, point: list[int]) -> bool:
        return any(polygon.contains(Point(point[0] + 0.5, point[1] + 0.5)) for polygon in found)

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


def test_it_is_listed_among_the_models_for_slides(turning: Server):
    answer = requests.get(f"{turning.url}/info/", timeout=60).json()
    assert answer["models"][RECIPE]["pathology"] is True
