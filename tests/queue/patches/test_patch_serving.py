"""The patch queue hands each part of a slide to one client once, with its reason; no slide takes all questions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError, PatchLocation, Region
from overread.ensemble.slides.maps import SlideMaps
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.serving import Nothing
from overread.queue.settings import QueueSettings
from overread.state.audit import rows
from overread.state.database import Database
from overread.state.labels import WITHDRAWN, LabelRow, add_label
from overread.state.servings import CONTROL, EXPIRED, SKIPPED, SUBMITTED, end, servings
from support.slide_maps import PIXEL, blank, some_maps

RECIPE, CHAMPION = "metastases", "abc123"
LEASE_S = 1800.0
PATCH = (64, 64)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


def queue(database: Database, champion: str = CHAMPION, **settings: object) -> PatchQueue:
    chosen = QueueSettings(**({"control_share": 0.0, "lease_s": LEASE_S} | settings))  # pyright: ignore
    return PatchQueue(database, RECIPE, champion, chosen)


def entry(maps: SlideMaps | None, centre: str = "here", size_px: tuple[int, int] | None = None) -> SlideEntry:
    size = maps.slide_size_px if maps is not None else size_px or (400, 400)
    return SlideEntry(lambda: maps, f"patient of {centre}", centre, size, PIXEL)


def ladder(patches: int, low: float = 0.1) -> SlideMaps:
    """A row of patches, each more doubtful than the one before."""
    field = blank(8, 8 * patches)
    for n in range(patches):
        field[:, 8 * n : 8 * n + 8] = low + 0.01 * n
    return some_maps(field)


def ask(
    line: PatchQueue,
    slides: dict[str, SlideEntry],
    slide: str | None = None,
    client: str = "reader",
    now: float = 1000.0,
    **more: object,
) -> ServedPatch:
    answer = ask_any(line, slides, slide, client, now, **more)
    assert isinstance(answer, ServedPatch), answer
    return answer


def ask_any(
    line, slides, slide=None, client="reader", now=1000.0, strategy=None, patch=PATCH, seed=0, annotated=None
):
    return line.ask(strategy, client, slides, slide, patch, now, np.random.default_rng(seed), annotated)


def label(case: str, **changes: object) -> LabelRow:
    known = {
        "case_id": case, "patient": "p", "rater": "r", "client_id": "c", "revision": 1, "file": case, "sha256": "",
        "tag": "final", "recipe": RECIPE, "champion": CHAMPION, "partial": False, "protected": False,
        "submitted_at": 1.0,
    }  # fmt: skip
    return LabelRow(**(known | changes))  # pyright: ignore


def test_the_reader_is_told_slide_reason_and_strategy(database):
    slides = {"one": entry(ladder(3)), "two": entry(ladder(3, low=0.3))}
    served = ask(queue(database), slides)
    assert served.location == PatchLocation("two", Region(128, 0, 64, 64))
    assert served.text == (
        "two | members unsure about Tumor, no. 1 of 9 of this slide's patches | most_uncertain"
    )
    assert served.serving.case_id == "two-patch-128_0_64_64"
    assert served.serving.patient == "patient of here"
    assert (served.serving.recipe, served.serving.champion) == (RECIPE, CHAMPION)
    assert served.score == served.serving.score == pytest.approx(0.32, abs=1e-3)
    assert not served.is_coarse


def test_a_first_look_is_called_one(database):
    maps = ladder(3)
    maps.is_coarse = True
    slides = {"one": entry(maps), "two": entry(ladder(3, low=0.0))}
    served = ask(queue(database), slides)
    assert served.is_coarse
    assert served.reason.endswith("of this slide's patches, first look only")
    assert served.text.endswith("| most_uncertain | 1 of 2 slides looked at closely so far")
    assert ask(queue(database), slides, slide="one").text.endswith("| most_uncertain | first look only")
    assert "first look" not in ask(queue(database), slides, strategy="random").reason


def test_nothing_is_asked_twice_and_no_two_patches_touch(database):
    line, slides = queue(database), {"one": entry(ladder(4))}
    regions = [ask(line, slides, client=f"reader{n}").location.region for n in range(4)]
    assert [region.x for region in regions] == [192, 128, 64, 0]
    answer = ask_any(line, slides, client="late")
    assert isinstance(answer, Nothing)
    assert answer.text == (
        "every patch with tissue in the slides was served, labelled or skipped, or touches one that was"
    )
    named = ask_any(line, slides, "one", client="late")
    assert isinstance(named, Nothing)
    assert "in slide one was served" in named.text


def test_what_the_client_held_is_skipped_and_anonymous_clients_lose_nothing(database):
    line, slides = queue(database), {"one": entry(ladder(6))}
    first = ask(line, slides)
    ask(line, slides, client="")
    ask(line, slides, client="")
    ask(line, slides)
    with database.reading() as c:
        outcomes = [serving.outcome for serving in servings(c)]
        log = [(row.action, row.subject) for row in rows(c)]
    assert outcomes == [SKIPPED, None, None, None]
    assert log[0] == ("patch served", first.location.name)
    assert ("patch skipped", first.location.name) in log
    assert [action for action, _ in log].count("patch served") == 4


def test_labelled_places_and_those_the_caller_names_are_left_out(database):
    line, slides = queue(database), {"one": entry(ladder(4))}
    with database.writing() as c:
        add_label(c, label("one-patch-192_0_64_64"))
        add_label(c, label("one-patch-128_0_64_64", status=WITHDRAWN))
        add_label(c, label("one-patch-0_0_64_64", recipe="another"))
        add_label(c, label("one"))
    assert ask(line, slides, annotated={"one": [Region(130, 10, 5, 5)]}).location.region.x == 64
    assert ask(line, slides, client="other").location.region.x == 128


def test_what_nobody_answered_comes_back_when_nothing_else_is_left_and_then_what_was_skipped(database):
    line, slides = queue(database, skip_rest=1), {"one": entry(ladder(3))}
    ask(line, slides, client="a")
    later = 1000 + 2 * LEASE_S
    ask(line, slides, client="b", now=later)
    # The second patch is skipped for the third.
    ask(line, slides, client="b", now=later + 1)
    again = ask(line, slides, client="c", now=later + 2)
    assert again.location.region.x == 128
    assert again.reason.endswith(", not answered before and nothing else left")
    skipped = ask(line, slides, client="d", now=later + 3)
    assert skipped.location.region.x == 64
    assert skipped.reason.endswith(", skipped before and nothing else left")
    assert isinstance(ask_any(line, slides, client="e", now=later + 4), Nothing)
    with database.reading() as c:
        assert [s.outcome for s in servings(c)] == [EXPIRED, SKIPPED, None, None, None]


def test_a_skipped_patch_rests_first(database):
    line, slides = queue(database, skip_rest=5), {"one": entry(ladder(2))}
    first = ask(line, slides)
    assert ask(line, slides).location != first.location
    assert isinstance(ask_any(line, slides), Nothing)


def test_no_slide_gets_more_than_twice_an_equal_share(database):
    # A budget of 6 over 4 slides: at most 3 each, whatever the doubt.
    slides = {"hot": entry(ladder(10, low=0.5))} | {f"s{n}": entry(ladder(10)) for n in range(3)}
    line = queue(database, budget=6)
    served = [ask(line, slides, client=f"r{n}").location.slide for n in range(6)]
    assert served[:3] == ["hot"] * 3
    assert Counter(served)["hot"] == 3
    # Who asks for this slide gets it.
    assert ask(line, slides, slide="hot", client="named").location.slide == "hot"
    # A new champion starts anew.
    assert ask(queue(database, champion="next", budget=6), slides, client="new").location.slide == "hot"


@pytest.mark.parametrize(("share", "of_hot"), [(1.0, 2), (2.0, 3), (100.0, 6)])
def test_the_share_can_be_set(database, share, of_hot):
    slides = {"hot": entry(ladder(10, low=0.5))} | {f"s{n}": entry(ladder(10)) for n in range(3)}
    line = queue(database, budget=6, share=share)
    served = [ask(line, slides, client=f"r{n}").location.slide for n in range(6)]
    assert Counter(served)["hot"] == of_hot


def test_centres_share_the_questions_and_one_that_has_nothing_left_gives_its_share(database):
    slides = {f"big{n}": entry(ladder(10, low=0.5), "big") for n in range(3)}
    slides |= {"small": entry(ladder(2), "small")}
    line = queue(database, budget=8)
    served = [ask(line, slides, client=f"r{n}").location.slide for n in range(8)]
    centres = [slides[slide].centre for slide in served]
    assert centres[:4] == ["big"] * 4
    # The small one has two patches; its other two questions go back.
    assert Counter(centres) == {"big": 6, "small": 2}


def test_beyond_the_budget_those_asked_least_come_first(database):
    slides = {"hot": entry(ladder(20, low=0.5))} | {f"s{n}": entry(ladder(20)) for n in range(3)}
    line = queue(database, budget=2)
    served = [ask(line, slides, client=f"r{n}").location.slide for n in range(12)]
    # Never more than half, that is twice an equal share, of what was asked so far.
    assert all(Counter(served[:n])["hot"] <= n / 2 + 1 for n in range(12))
    assert Counter(served)["hot"] == 6


def test_the_control_arm_draws_its_share_at_random(database):
    line = queue(database, control_share=0.25)
    slides = {"one": entry(ladder(40))}
    served = [ask(line, slides, client=f"r{n}") for n in range(20)]
    control = [one for one in served if one.arm == CONTROL]
    assert len(control) == 5
    assert {one.strategy for one in control} == {"foreground_random"}
    assert all(one.reason.startswith("control: drawn at random") and one.score is None for one in control)


def test_clasp_asks_about_classes_once_structures_were_seen(database):
    maps = ladder(60)
    maps.probability[1, :, 40:], maps.probability[0, :, 40:] = 1, 0
    line, slides = queue(database, strategy="clasp_pe"), {"one": entry(maps)}
    served = [ask(line, slides, client=f"r{n}", patch=(128, 64), seed=n) for n in range(12)]
    assert {one.strategy for one in served} == {"clasp_pe"}
    assert any(one.reason.startswith("members unsure about Tumor") for one in served)
    assert not any(
        a.location.region.overlaps(b.location.region) for n, a in enumerate(served) for b in served[:n]
    )


def test_an_answered_patch_stays_occupied_when_its_answer_came_late(database):
    line, slides = queue(database), {"one": entry(ladder(2))}
    first = ask(line, slides)
    later = 1000 + 2 * LEASE_S
    ask(line, slides, client="b", now=later)
    with database.writing() as c:
        end(c, first.serving.id, SUBMITTED, later + 1)
    assert isinstance(ask_any(line, slides, client="c", now=later + 2), Nothing)


def test_viewers_may_ask_for_any_size_and_get_a_sensible_one_where_they_name_none(database):
    slides = {"one": entry(some_maps(blank(200, 300) + 0.1))}
    line = queue(database)
    assert ask(line, slides, patch=(5000, 5000)).location.region == Region(0, 0, 2400, 1600)
    region = ask(queue(database), {"other": slides["one"]}, patch=None).location.region
    assert (region.width, region.height) == (400, 400)
    with pytest.raises(BadInputError, match="is empty"):
        ask(line, slides, patch=(0, 10))


def test_what_cannot_be_answered_says_why(database):
    line = queue(database)
    unseen = {"one": entry(None), "two": entry(None)}
    glass = {"glass": entry(some_maps(blank(8, 8), tissue=np.zeros((8, 8), bool)))}
    for slides, slide, text in (
        ({}, None, "there are no slides yet"),
        (unseen, None, "none of the 2 slides was looked at yet; ask again in a moment"),
        (unseen, "two", "slide two was not looked at yet; ask again in a moment"),
        (glass, "glass", "slide glass shows no patch with at least 10 % tissue"),
        (glass, None, "the slides that were looked at show no patch with at least 10 % tissue"),
    ):
        answer = ask_any(line, slides, slide)
        assert isinstance(answer, Nothing)
        assert answer.text == text
    with pytest.raises(NotFoundError, match="no slide is called 'three'; the queue has 2 slides"):
        ask_any(line, unseen, "three")
    with pytest.raises(NotFoundError, match="no strategy for patches is called 'best'"):
        ask_any(line, unseen, strategy="best")
    with pytest.raises(NotFoundError, match="no strategy for patches is called 'best'"):
        queue(database, strategy="best")


def test_without_a_model_tissue_is_drawn_at_random(database):
    maps = some_maps(blank(8, 40), classes=("background",), drawn=[])
    served = ask(queue(database, champion=""), {"one": entry(maps)})
    assert served.reason == "nothing scored yet: drawn at random in tissue"


def test_maps_are_read_once_for_each_version_and_the_reader_does_not_wait_for_newer_ones(database):
    read: list[str] = []

    def slide(version: str, maps: SlideMaps) -> dict[str, SlideEntry]:
        def maps_of() -> SlideMaps:
            read.append(version)
            return maps

        return {"one": SlideEntry(maps_of, "p", "here", maps.slide_size_px, PIXEL, version)}

    line = queue(database)
    old, new = slide("old", ladder(6)), slide("new", ladder(6, low=0.9))
    for client in ("a", "b"):
        ask(line, old, client=client)
    assert read == ["old"]
    assert ask(line, new, client="c").score == pytest.approx(0.13, abs=1e-3)
    assert read == ["old"]
    line.warm(new, PATCH)
    assert read == ["old", "new"]
    assert ask(line, new, client="d").score == pytest.approx(0.92, abs=1e-3)
    line.warm({}, PATCH)
    ask(line, new, client="e")
    assert read == ["old", "new", "new"]


def test_maps_that_grow_are_noticed(database):
    maps = ladder(6)
    maps.known[:, 24:] = False
    line, slides = queue(database), {"one": entry(maps)}
    # Half of the patch from 160 on was looked at.
    assert ask(line, slides, client="a").location.region.x <= 160
    maps.known[:] = True
    assert ask(line, slides, client="b").location.region.x == 320


def test_slides_of_another_recipe_that_are_with_a_reader_are_left_alone(database):
    slides = {"one": entry(ladder(3))}
    taken = PatchQueue(database, "another", CHAMPION, QueueSettings(control_share=0.0))
    assert ask(taken, slides, client="a").location.region.x == 128
    assert ask(queue(database), slides, client="b").location.region.x == 64


def test_who_only_asks_for_a_slide_takes_no_patch_away(database):
    slides = {"one": entry(ladder(4))}
    rng = np.random.default_rng(0)
    opened = queue(database, control_share=0).ask(None, "anna", slides, None, PATCH, 1.0, rng, holds=False)
    first = queue(database, control_share=0).ask(None, "anna", slides, "one", PATCH, 2.0, rng)
    assert isinstance(opened, ServedPatch)
    assert isinstance(first, ServedPatch)
    assert first.location == opened.location
    with database.reading() as c:
        assert [serving.id for serving in servings(c)] == [first.serving.id]


def test_what_a_strategy_needs_of_many_slides_is_not_waited_for(database):
    read: list[str] = []

    def slide(name: str, maps: SlideMaps) -> SlideEntry:
        def maps_of() -> SlideMaps:
            read.append(name)
            return maps

        return SlideEntry(maps_of, name, "here", maps.slide_size_px, PIXEL, version=1)

    slides = {f"s{n}": slide(f"s{n}", ladder(6, low=0.1 + 0.1 * n)) for n in range(4)}
    line = queue(database)
    line.warm(slides, PATCH)
    read.clear()
    # The most doubtful slide is enough to begin with.
    assert ask(line, slides, strategy="pairwise_dice", client="a").location.slide == "s3"
    assert read == ["s3"]
    ask(line, slides, strategy="pairwise_dice", client="b")
    assert read == ["s3"]
    assert ask(line, slides, slide="s1", strategy="pairwise_dice", client="c").location.slide == "s1"
    assert read == ["s3", "s1"]
    line.warm(slides, PATCH)
    assert sorted(read) == ["s0", "s1", "s2", "s3"]
