"""QuPath's *Next Patch* and *Annotations…* say whose the doubt is, where a MedUHIP model is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from support.blobs import SURE_AT, publish_blob_champion, write_blobs
from support.qupath import SLIDE, Server, around, body, patch, wish
from support.servers import app_copy, running_server
from support.slide_styles import publish_slide_styles

pytestmark = pytest.mark.slow

STYLE = "doubt mostly of style: ask a person"
# One of three components sees tumour, and all are sure.
LOGITS = (-10.0, -10.0, 10.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue asks by a MedUHIP model; its background scoring rests."""
    base = tmp_path_factory.mktemp("split")
    app_dir, studies = app_copy(base / "app", "pathology"), base / "studies"
    studies.mkdir()
    publish_blob_champion(app_dir)
    publish_slide_styles(app_dir, "styles", (LOGITS,))
    write_blobs(studies / f"{SLIDE}.tif")
    conf = ["scoring", "no", "control_share", "0", "threads", "1", "queue_recipe", "styles"]
    with running_server(app_dir, studies, conf, cwd=base) as url:
        yield Server(url, app_dir, studies)


def share_of_tumour(recipe_draws: int = 8) -> list[float]:
    """What may be the share of the draws that see tumour: 2 or 3 of 8."""
    return [n / recipe_draws for n in (2, 3)]


def test_the_next_patch_comes_with_the_parts_of_its_doubt(split: Server):
    answer = split.next("most_uncertain", wish())
    assert patch(answer).width > 0
    facts = answer.json()
    assert f", {STYLE}, first look only" in facts["reason"]
    assert facts["reason"] in facts["text"]
    told = facts["doubt_parts"]
    assert (told["asks"], told["words"]) == ("person", STYLE)
    assert set(told["parts"]) == {"style", "within", "members"}
    assert told["parts"]["members"] == 0
    assert told["parts"]["within"] < 0.01
    assert any(told["parts"]["style"] == pytest.approx(p * (1 - p), abs=0.01) for p in share_of_tumour())
    assert "`members` is 0 where there is one network" in told["meaning"]["networks"]


def annotated(server: Server, recipe: str) -> dict:
    answer = requests.post(
        f"{server.url}/infer/wsi/{recipe}",
        params={"image": SLIDE},
        data=body(around(SURE_AT)).encode(),
        timeout=120,
    )
    assert answer.ok, answer.text
    return answer.json()


def test_a_rectangle_comes_with_the_parts_of_its_doubt(split: Server):
    told = annotated(split, "styles")["doubt_parts"]
    assert told["words"] == STYLE
    assert any(told["parts"]["style"] == pytest.approx(p * (1 - p), abs=0.01) for p in share_of_tumour())


def test_a_model_that_cannot_tell_says_nothing_about_it(split: Server):
    assert "doubt_parts" not in annotated(split, "blobs")
