"""Who is asked about a patch is told whose the doubt in it mostly is, where the champion can tell."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.domain import Region
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions
from overread.ensemble.storage import load_ensemble
from overread.queue.claims import Claims
from overread.queue.patches.candidates import patch_table
from overread.queue.patches.files import SlideFiles, slide_folder
from overread.queue.patches.looking import CloseLook
from overread.queue.patches.parts import parts_of_patch, parts_of_region
from overread.queue.patches.scorer import SlideScorer
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.state.database import Database
from overread.state.scores import scores_of
from support.slide_maps import PIXEL, blank, some_maps
from support.slide_styles import write_slide_styles
from support.slides import grey, slide_of, tissue_of

PATCH = (64, 64)
STYLE = "doubt mostly of style: ask a person"
WITHIN = "doubt mostly within each style: the image does not tell"


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


def told_apart(**more: object) -> SlideMaps:
    """Three patches, each more doubtful: in the second all is within, in the third 3 of 4 are style."""
    doubt = np.repeat([[0.1, 0.2, 0.3]], 8, axis=1).repeat(8, axis=0).astype(np.float32)
    maps = some_maps(doubt, **more)  # type: ignore[arg-type]
    style, within = blank(8, 24), blank(8, 24)
    within[:, 8:16] = 0.2
    style[:, 16:], within[:, 16:] = 0.15, 0.05
    maps.maps |= {"style": style.astype(np.float16), "within": within.astype(np.float16)}
    return maps


def ask(
    database: Database, maps: SlideMaps, client: str = "a", now: float = 1.0, **settings: object
) -> ServedPatch:
    chosen = QueueSettings(**({"control_share": 0.0, "lease_s": 60.0} | settings))  # type: ignore[arg-type]
    slides = {"one": SlideEntry(lambda: maps, "p", "here", maps.slide_size_px, PIXEL)}
    line = PatchQueue(database, "styles", "abc", chosen)
    served = line.ask(None, client, slides, None, PATCH, now, np.random.default_rng(0))
    assert isinstance(served, ServedPatch), served
    return served


def test_a_patchs_part_is_its_mean_over_tissue_that_was_looked_at():
    maps = told_apart()
    maps.tissue[:4, 16:20] = False
    maps.known[4:, 16:20] = False
    maps.maps["style"][:, 16:20] = 9.0
    table = patch_table("one", maps, PATCH)
    third = parts_of_patch(table, Region(128, 0, 64, 64))
    assert third == {
        "style": pytest.approx(0.15, rel=1e-3),
        "within": pytest.approx(0.05, rel=1e-3),
        "members": 0,
    }
    assert list(third) == ["style", "within", "members"]
    assert parts_of_patch(table, Region(64, 0, 64, 64))["style"] == 0
    # Half of one patch and half of the next.
    assert parts_of_patch(table, Region(32, 0, 64, 64))["within"] == pytest.approx(0.1, rel=1e-3)
    # No candidate lies there.
    assert parts_of_patch(table, Region(33, 0, 64, 64)) == {}
    assert parts_of_patch(table, Region(32, 0, 64, 63)) == {}


def test_too_little_that_was_looked_at_tells_nothing():
    known = np.zeros((8, 24), bool)
    known[:3] = True
    assert parts_of_patch(patch_table("one", told_apart(known=known), PATCH), Region(128, 0, 64, 64)) == {}


def test_any_rectangle_has_parts():
    maps = told_apart()
    both = parts_of_region(maps, Region(64, 0, 128, 64))
    assert both == {
        "style": pytest.approx(0.075, rel=1e-3),
        "within": pytest.approx(0.125, rel=1e-3),
        "members": 0,
    }
    maps.known[:, 8:16] = False
    assert parts_of_region(maps, Region(64, 0, 128, 64))["within"] == pytest.approx(0.05, rel=1e-3)
    assert parts_of_region(maps, Region(64, 0, 64, 64)) == {}
    assert parts_of_region(some_maps(blank(8, 8) + 0.3), Region(0, 0, 64, 64)) == {}


def test_the_reason_says_which_part_is_the_largest(database):
    first = ask(database, told_apart())
    assert first.location.region.x == 128
    assert first.reason == f"members unsure about Tumor, no. 1 of 9 of this slide's patches, {STYLE}"
    assert first.serving.reason == first.reason
    assert first.text == f"one | {first.reason} | most_uncertain"
    assert first.parts == {
        "style": pytest.approx(0.15, 1e-3),
        "within": pytest.approx(0.05, 1e-3),
        "members": 0,
    }
    second = ask(database, told_apart(), "b")
    assert second.reason.endswith(f"patches, {WITHIN}")
    # Nothing is split where there is no doubt of a kind.
    third = ask(database, told_apart(), "c")
    assert third.reason.endswith("of this slide's patches")
    assert third.parts == {"style": 0, "within": 0, "members": 0}


def test_the_kind_comes_before_what_the_choice_rests_on_whoever_chose(database):
    maps = told_apart(is_coarse=True)
    maps.maps["style"][:] = 0.3
    assert ask(database, maps).reason.endswith(f"patches, {STYLE}, first look only")
    control = ask(database, maps, "b", control_share=1.0)
    assert control.reason == f"control: drawn at random, no patch shows a structure, {STYLE}"
    ask(database, maps, "c")
    again = ask(database, maps, "d", now=100.0)
    assert again.reason.endswith(f", {STYLE}, first look only, not answered before and nothing else left")


def test_a_box_that_was_fitted_has_parts_of_its_own(database):
    maps = told_apart()
    maps.maps["predictive_entropy"][:] = 0.01
    maps.maps["predictive_entropy"][1:7, 18:24] = 0.6
    served = ask(database, maps, strategy="adaptive_box")
    assert served.strategy == "adaptive_box"
    assert (served.location.region.width, served.location.region.height) != PATCH
    assert served.parts == {
        "style": pytest.approx(0.15, 1e-3),
        "within": pytest.approx(0.05, 1e-3),
        "members": 0,
    }
    assert served.reason.endswith(f"box fitted to it, {STYLE}")


def test_champions_that_cannot_tell_say_what_they_said(database):
    maps = some_maps(blank(8, 16) + 0.3)
    table = patch_table("one", maps, PATCH)
    assert not table.parts
    served = ask(database, maps)
    assert served.reason == "members unsure about Tumor, no. 1 of 5 of this slide's patches"
    assert served.parts == {}
    assert ask(database, maps, "b", strategy="adaptive_box").parts == {}


def test_maps_that_an_earlier_version_kept_are_read_and_have_no_parts(database, tmp_path: Path):
    some_maps(blank(8, 16) + 0.3).save(tmp_path / "maps.npz")
    maps = SlideMaps.load(tmp_path / "maps.npz")
    assert ask(database, maps).parts == {}
    # A close look that goes on from there changes nothing about that.
    write_slide_styles(tmp_path / "styles", ((-10.0, 10.0),))
    ensemble = load_ensemble(tmp_path / "styles")
    slide = slide_of(tmp_path / "slide.tif", grey(np.full((64, 64), 120)))
    look = CloseLook(
        SlideMaps.empty(slide, replace(ensemble, kinds=None, asked_by="predictive_entropy"), tissue_of(slide))
    )
    look.look(ensemble, slide, SlideOptions(workers=1))
    assert look.maps.known.all()
    assert parts_of_region(look.maps, slide.bounds) == {}


@pytest.mark.parametrize(
    ("logits", "words", "style"), [((-10.0, 10.0), STYLE, 0.25), ((0.2, -0.2), WITHIN, 0.0)]
)
def test_a_champion_with_styles_scores_slides_with_their_parts(
    database, tmp_path: Path, logits, words, style
):
    write_slide_styles(tmp_path / "styles", (logits,))
    ensemble = load_ensemble(tmp_path / "styles")
    picture = np.full((256, 256, 3), 245, np.uint8)
    picture[32:224, 32:224] = (150, 60, 140)
    slide_of(tmp_path / "one.tif", picture).close()
    cases = tmp_path / "slides.json"
    cases.write_text(json.dumps({"one": {"image": str(tmp_path / "one.tif"), "patient": "p"}}))
    options, claims = SlideOptions(batch=4, workers=1), Claims.for_database(database.url)
    scorer = SlideScorer(
        database, "styles", ensemble, cases, tmp_path / "maps", claims, threading.Event(), options=options
    )
    assert [line.error for line in scorer.run()] == [None, None]
    maps = SlideFiles(slide_folder(tmp_path / "maps", "styles", scorer.champion, "one")).read()
    assert maps is not None
    assert not maps.is_coarse
    served = ask(database, maps)
    assert served.parts["style"] == pytest.approx(style, abs=5e-3)
    assert served.parts["style"] + served.parts["within"] == pytest.approx(0.25, abs=5e-3)
    assert served.reason.endswith(f", {words}")
    # Draws that are sure each and differ in style leave nothing for a label to settle; draws that hesitate do.
    assert maps.asked_by == "expected_entropy"
    hesitation = float(np.log(2)) if words == WITHIN else 0.0
    assert served.serving.score == pytest.approx(hesitation, abs=0.03)
    looked = maps.known & maps.tissue
    weighted = maps.class_doubt[0][looked].astype(np.float32)
    assert weighted.mean() == pytest.approx(hesitation / 2, abs=0.02)
    assert maps.maps["predictive_entropy"][looked].astype(np.float32).mean() == pytest.approx(
        np.log(2), abs=0.02
    )
    with database.reading() as c:
        row = scores_of(c, "styles", scorer.champion)["one"]
    assert row.doubt == pytest.approx(hesitation, abs=0.03)
    assert row.quality is None


@pytest.mark.parametrize("strategy", ["most_uncertain", "adaptive_box", "clasp_pe"])
def test_patches_are_asked_by_the_doubt_that_a_label_settles(database, strategy: str):
    styles, hesitating = blank(8, 16), blank(8, 16)
    styles[:, :8] = 0.6
    hesitating[:, 8:] = 0.3
    maps = some_maps(styles + hesitating, class_doubt=hesitating[None])
    maps.maps["expected_entropy"] = hesitating.astype(np.float16)
    if strategy != "clasp_pe":
        assert ask(database, maps, "a", strategy=strategy).location.region.right <= 64
    served = ask(database, replace(maps, asked_by="expected_entropy"), "b", strategy=strategy)
    assert served.strategy == strategy
    assert served.location.region.x >= 60
