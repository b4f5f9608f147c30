"""Readers are told when another patch is expected to change little, by what the accepted ones had corrected."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import PatchLocation, Region
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.queue.stop import CHANGES_LITTLE
from overread.state.database import Database
from overread.state.labels import WITHDRAWN, LabelRow, add_label
from overread.state.servings import STRATEGY, SUBMITTED, end, serve
from support.slide_maps import PIXEL, blank, some_maps

RECIPE, CHAMPION, PATCH = "metastases", "abc123", (64, 64)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


def labelled(database: Database, number: int, correction: float | None, doubt: float, **changes) -> None:
    """A patch of another slide that was served for its doubt, and answered."""
    name = PatchLocation("seen", Region(64 * number, 0, 64, 64)).name
    with database.writing() as c:
        served = serve(
            c, case_id=name, patient="p", client_id="r", recipe=RECIPE, champion=CHAMPION, reason="",
            strategy="most_uncertain", arm=STRATEGY, score=doubt, now=float(number), lease_s=1e9,
        )  # fmt: skip
        end(c, served.id, SUBMITTED, number + 0.5)
        row = {
            "case_id": name, "patient": "p", "rater": "r", "client_id": "r", "revision": 1, "file": name,
            "sha256": "", "tag": "final", "recipe": RECIPE, "champion": CHAMPION, "serving_id": served.id,
            "dice_to_proposal": None if correction is None else 1 - correction, "partial": False,
            "protected": False, "submitted_at": float(number),
        }  # fmt: skip
        add_label(c, LabelRow(**(row | changes)))  # pyright: ignore


def ask(database: Database, *doubts: float) -> ServedPatch:
    """Of a slide with a row of patches of this doubt."""
    field = np.repeat(np.array(doubts, np.float32), 8)[None] + blank(8, 8 * len(doubts))
    maps = some_maps(field)
    slides = {f"row of {len(doubts)}": SlideEntry(lambda: maps, "p", "here", maps.slide_size_px, PIXEL)}
    line = PatchQueue(database, RECIPE, CHAMPION, QueueSettings(control_share=0.0))
    found = line.ask(None, "reader", slides, None, PATCH, 1e6, np.random.default_rng(0))
    assert isinstance(found, ServedPatch)
    return found


def test_a_few_labels_say_nothing(database):
    for number in range(9):
        labelled(database, number, 0.0, 0.3)
    labelled(database, 9, 0.0, 0.3, status=WITHDRAWN)
    labelled(database, 10, None, 0.3)
    served = ask(database, 0.2)
    assert served.stop is None
    assert CHANGES_LITTLE not in served.text


def test_corrections_that_follow_the_doubt_are_expected_of_the_most_doubtful_patch(database):
    # A tenth of the doubt is corrected, exactly.
    for number, doubt in enumerate(np.linspace(0, 0.6, 16)):
        labelled(database, number, 0.1 * doubt, float(doubt))
    more = ask(database, 0.1, 0.5, 0.2).stop
    assert more is not None
    assert more.expected_correction == pytest.approx(0.05, abs=1e-3)
    assert not more.stop
    little = ask(database, 0.05, 0.1)
    assert little.stop is not None
    assert little.stop.expected_correction == pytest.approx(0.01, abs=1e-3)
    assert little.stop.stop
    assert little.text.endswith(f" | {CHANGES_LITTLE}")


def test_patches_in_which_neither_saw_anything_were_not_corrected(database):
    for number in range(12):
        labelled(database, number, None, 0.3, details={"voxels_changed": 0})
    stop = ask(database, 0.3).stop
    assert stop is not None
    assert stop.stop
    assert stop.because.startswith("12 accepted labels corrected 0.0 % of the proposals' Dice")


def test_labels_that_came_meanwhile_count(database):
    for number in range(12):
        labelled(database, number, 0.0, 0.3)
    assert ask(database, 0.3).stop is not None
    maps = some_maps(blank(8, 32) + 0.3)
    slides = {"new": SlideEntry(lambda: maps, "p", "here", maps.slide_size_px, PIXEL)}
    line = PatchQueue(database, RECIPE, CHAMPION, QueueSettings(control_share=0.0))
    rng = np.random.default_rng(0)
    first = line.ask(None, "a", slides, None, PATCH, 1e6, rng)
    for number in range(12, 24):
        labelled(database, number, 0.5, 0.3)
    second = line.ask(None, "b", slides, None, PATCH, 1e6, rng)
    assert isinstance(first, ServedPatch)
    assert isinstance(second, ServedPatch)
    assert first.stop is not None
    assert second.stop is not None
    assert first.stop.stop
    assert not second.stop.stop
