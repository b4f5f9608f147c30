"""The patch queue keeps its word on either database: nothing is handed out twice, and what was answered is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.serving import Nothing
from overread.queue.settings import QueueSettings
from overread.state.database import Database
from overread.state.labels import LabelRow, add_label
from overread.state.servings import CONTROL, EXPIRED, SKIPPED, servings
from support.slide_maps import PIXEL, blank, some_maps

RECIPE, PATCH, LEASE_S = "metastases", (64, 64), 1800.0


def slides(patches: int) -> dict[str, SlideEntry]:
    """One slide, a row of patches, each more doubtful than the one before."""
    maps = some_maps(np.repeat(0.1 + 0.01 * np.arange(patches), 8)[None] + blank(8, 8 * patches))
    return {"one": SlideEntry(lambda: maps, "p", "here", maps.slide_size_px, PIXEL, version=1)}


def queue(database: Database, **settings: object) -> PatchQueue:
    chosen = QueueSettings(**({"control_share": 0.0, "lease_s": LEASE_S} | settings))  # pyright: ignore
    return PatchQueue(database, RECIPE, "abc123", chosen)


def ask(line: PatchQueue, client: str, now: float = 1.0, patches: int = 6, **more) -> ServedPatch | Nothing:
    return line.ask(None, client, slides(patches), None, PATCH, now, np.random.default_rng(0), **more)


def place(answer: ServedPatch | Nothing) -> int:
    assert isinstance(answer, ServedPatch), answer
    return answer.location.region.x


def test_patches_are_served_skipped_labelled_and_come_back(database: Database):
    line = queue(database, skip_rest=1)
    assert [place(ask(line, client)) for client in ("a", "b")] == [320, 256]
    # Asked again, what was held is skipped.
    assert place(ask(line, "a", 2.0)) == 192
    with database.writing() as c:
        add_label(
            c,
            LabelRow(
                case_id="one-patch-128_0_64_64", patient="p", rater="r", client_id="r", revision=1, file="f",
                sha256="", tag="final", recipe=RECIPE, champion="abc123", partial=False, protected=False,
                submitted_at=3.0,
            ),
        )  # fmt: skip
    assert place(ask(line, "c", 4.0)) == 64
    assert place(ask(line, "d", 5.0)) == 0
    later = 10 + LEASE_S
    assert place(ask(line, "e", later)) == 256
    with database.reading() as c:
        assert [serving.outcome for serving in servings(c)][:5] == [
            SKIPPED,
            EXPIRED,
            EXPIRED,
            EXPIRED,
            EXPIRED,
        ]


def test_readers_who_ask_at_once_get_different_patches(database: Database):
    line = queue(database)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: ask(line, f"reader{n}", patches=12), range(12)))
    assert sorted(place(answer) for answer in found) == [64 * n for n in range(12)]
    assert isinstance(ask(line, "late", patches=12), Nothing)


def test_the_control_arm_has_its_share_and_advice_follows_the_labels(database: Database):
    line = queue(database, control_share=0.25)
    found = [ask(line, f"reader{n}", patches=20) for n in range(12)]
    assert sum(isinstance(one, ServedPatch) and one.arm == CONTROL for one in found) == 3
    with database.writing() as c:
        for one in found:
            assert isinstance(one, ServedPatch)
            add_label(
                c,
                LabelRow(
                    case_id=one.location.name, patient="p", rater="r", client_id="r", revision=1,
                    file=one.location.name, sha256="", tag="final", recipe=RECIPE, champion="abc123",
                    serving_id=one.serving.id, dice_to_proposal=1.0, partial=False, protected=False,
                    submitted_at=2.0,
                ),
            )  # fmt: skip
    last = ask(line, "late", 3.0, patches=20)
    assert isinstance(last, ServedPatch)
    assert last.stop is not None
    assert last.stop.stop
