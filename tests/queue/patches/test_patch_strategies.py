"""Each strategy takes the patch it says, with a reason; the paper's own score has the flaw that is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from overread.domain import BadInputError, Region
from overread.ensemble.slides.maps import SlideMaps
from overread.queue import clasp
from overread.queue.patches.adaptive import doubt_field
from overread.queue.patches.candidates import PatchTable, PatchView, patch_table
from overread.queue.patches.scores import uga_score
from overread.queue.patches.strategies import EXTRAS, PATCH_STRATEGIES
from support.slide_maps import blank, some_maps

PATCH = (64, 64)
CELLS = 8
RNG = np.random.default_rng(0)


def table_of(maps: SlideMaps, slide: str = "a") -> PatchTable:
    table = patch_table(slide, maps, PATCH)
    table.extras.update({name: needed(table, maps) for name, needed in EXTRAS.items()})
    return table


def view_of(
    *maps: SlideMaps,
    occupied: dict[str, list[Region]] | None = None,
    within: Sequence[bool] | None = None,
    **known: object,
) -> PatchView:
    """Slides `a`, `b`, …"""
    tables = tuple(table_of(each, "abcdef"[index]) for index, each in enumerate(maps))
    taken = occupied or {}
    free = tuple(table.free(taken.get(table.slide, ())) for table in tables)
    allowed = tuple(within) if within is not None else (True,) * len(tables)
    return PatchView(tables, free, allowed, taken, **known)  # pyright: ignore


def pick(name: str, view: PatchView, seed: int = 0):
    return PATCH_STRATEGIES[name].pick(view, np.random.default_rng(seed))


def spots(rows: int, columns: int, *places: tuple[int, int, float]) -> np.ndarray:
    """Doubt in whole patches: `(patch row, patch column, nat)`."""
    field = blank(rows * CELLS, columns * CELLS) + 0.01
    for row, column, nat in places:
        field[row * CELLS : (row + 1) * CELLS, column * CELLS : (column + 1) * CELLS] = nat
    return field


def test_the_most_uncertain_patch_of_all_slides_comes_first_with_its_place_and_class():
    view = view_of(some_maps(spots(2, 4, (0, 1, 0.4))), some_maps(spots(2, 4, (1, 3, 0.6))))
    found = pick("most_uncertain", view)
    assert found.location.name == "b-patch-192_64_64_64"
    assert found.reason == "members unsure about Tumor, top 2 % of this slide's patches"
    assert found.score == pytest.approx(0.6, abs=1e-3)


def test_what_overlaps_an_occupied_patch_is_passed_over():
    maps = some_maps(spots(1, 5, (0, 1, 0.6), (0, 4, 0.3)))
    taken = {"a": [Region(60, 0, 64, 64)]}
    assert pick("most_uncertain", view_of(maps, occupied=taken)).location.region == Region(256, 0, 64, 64)


def test_a_slide_that_had_its_share_waits():
    doubted, other = some_maps(spots(1, 3, (0, 0, 0.6))), some_maps(spots(1, 3, (0, 2, 0.1)))
    assert pick("most_uncertain", view_of(doubted, other)).location.slide == "a"
    assert pick("most_uncertain", view_of(doubted, other, within=(False, True))).location.slide == "b"
    # Where no other has a score, it is asked all the same.
    unseen = some_maps(spots(1, 3), known=np.zeros((8, 24), bool))
    assert pick("most_uncertain", view_of(doubted, unseen, within=(False, True))).location.slide == "a"


def test_where_nothing_is_scored_chance_decides_and_says_so():
    unseen = some_maps(spots(1, 3), known=np.zeros((8, 24), bool))
    for name in ("most_uncertain", "clasp_pe", "sure_and_unsure", "uga", "pairwise_dice", "adaptive_box"):
        # The fourth question of `clasp_pe` is about any class.
        found = pick(name, view_of(unseen, asked=3))
        assert found.score is None
        assert found.reason == "nothing scored yet: drawn at random in tissue"


def test_classes_are_asked_in_turn_by_their_own_doubt():
    classes = ("background", "Tumor", "Gland")
    class_doubt = np.stack([spots(1, 3, (0, 0, 0.5)), spots(1, 3, (0, 2, 0.4))])
    maps = some_maps(spots(1, 3, (0, 1, 0.6)), class_doubt=class_doubt, classes=classes)
    seen: dict[str, set[int]] = {}
    for asked in range(60):
        kind = clasp.kind_of_question(asked, 2, seen_foreground=True)
        view = view_of(maps, asked=asked, seen_foreground=True, progress=1.0)
        found = pick("clasp_pe", view, seed=asked)
        words = (
            "at random"
            if kind == clasp.AT_RANDOM
            else "any"
            if kind == clasp.ANY_CLASS
            else classes[kind + 1]
        )  # pyright: ignore
        seen.setdefault(words, set()).add(found.location.region.x)
        if words in classes:
            assert found.reason.startswith(f"members unsure about {words}, no. 1 of 9")
    assert seen["Tumor"] == {0}
    assert seen["Gland"] == {128}
    assert seen["any"] == {64}
    assert len(seen["at random"]) > 1


def test_flat_low_doubt_wins_by_the_papers_score_and_not_by_ours():
    # A patch of 0.05 nat everywhere, against one of which a quarter has 0.65 nat: the members fight over a structure.
    flat = np.full((CELLS, CELLS), 0.05)
    fought = np.full((CELLS, CELLS), 0.01)
    fought[:4, 4:] = 0.65
    field = np.concatenate([flat, fought], axis=1)
    view = view_of(some_maps(field))
    assert pick("uga", view).location.region == Region(0, 0, 64, 64)
    assert pick("uga", view).reason == "first by UGA's score, no. 1 of 2 of this slide's patches"
    assert pick("most_uncertain", view).location.region == Region(64, 0, 64, 64)
    # By hand, in bytes: 0.05 nat is 3, all of it above 0.8 of itself; 0.65 nat is 41 in 16 cells, 0.01 nat is 0.
    assert uga_score(np.full((8, 8), 3, np.uint8)) == 100 * 64 + 3 * 64
    assert pick("uga", view).score == 100 * 64 + 3 * 64
    assert view.tables[0].extras["uga"][4] == 100 * 16 + 41 * 16


def test_the_papers_rule_looks_at_patches_side_by_side_that_show_tissue_or_a_structure():
    field = spots(1, 4, (0, 0, 0.0), (0, 1, 0.2), (0, 2, 0.1))
    tissue = np.ones_like(field, bool)
    # Half the second patch is glass.
    tissue[:, 8:12] = False
    scores = table_of(some_maps(field, tissue=tissue)).extras["uga"]
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [8]
    predicted = np.zeros(field.shape, int)
    predicted[0, 15] = 1
    scores = table_of(some_maps(field, tissue=tissue, predicted=predicted)).extras["uga"]
    # 0.2 nat is 12 in bytes, 0.1 nat is 6; the last patch's 0.01 nat is 0.
    assert {index: scores[index] for index in np.flatnonzero(np.isfinite(scores)).tolist()} == {
        4: 32 * 112.0,
        8: 64 * 106.0,
    }
    assert uga_score(np.zeros((4, 4), np.uint8)) == 0


def test_the_papers_rule_knows_no_shares():
    view = view_of(
        some_maps(spots(1, 1, (0, 0, 0.5))), some_maps(spots(1, 1, (0, 0, 0.02))), within=(False, True)
    )
    assert pick("uga", view).location.slide == "a"


def test_pairwise_dice_asks_where_the_members_draw_differently():
    one, other = np.zeros((8, 24), bool), np.zeros((8, 24), bool)
    # Alike in the first patch, half in common in the third.
    one[:, :8] = other[:, :8] = True
    one[:4, 16:], other[2:6, 16:] = True, True
    view = view_of(some_maps(blank(8, 24), drawn=[one, other]))
    found = pick("pairwise_dice", view)
    assert found.location.region == Region(128, 0, 64, 64)
    # 32 cells each, 16 in common.
    assert found.score == pytest.approx(1 - 33 / 65)
    assert found.reason == "members draw it differently, no. 1 of 9 of this slide's patches"
    assert view.tables[0].extras["pairwise_dice"][[0, 4]].tolist() == [0, pytest.approx(0, abs=1e-9)]


def test_one_member_never_differs_from_itself():
    drawn = np.ones((8, 8), bool)
    assert table_of(some_maps(blank(8, 8), drawn=[drawn])).extras["pairwise_dice"].tolist() == [0]


def test_foreground_random_draws_each_class_as_often():
    classes = ("background", "Tumor", "Gland")
    predicted = np.zeros((16, 96), int)
    # Gland in many patches, tumour in few: one patch of 64 cells is 0.004 mm², so two by two are needed.
    predicted[:, 32:] = 2
    predicted[:, :16] = 1
    maps = some_maps(blank(16, 96), predicted=predicted, classes=classes)
    table = patch_table("a", maps, (128, 128))
    view = PatchView((table,), (np.ones(len(table), bool),), (True,))
    drawn = [pick("foreground_random", view, seed) for seed in range(300)]
    named = Counter(found.reason.rpartition(" ")[2] for found in drawn)
    assert 120 < named["Tumor"] < 180
    assert named["Tumor"] + named["Gland"] == 300
    assert {found.score for found in drawn} == {None}
    assert all(found.location.region.x < 128 for found in drawn if found.reason.endswith("Tumor"))


def test_foreground_random_does_without_foreground_and_without_a_look():
    assert pick("foreground_random", view_of(some_maps(blank(8, 24)))).reason == (
        "drawn at random, no patch shows a structure"
    )
    unseen = some_maps(blank(8, 24), known=np.zeros((8, 24), bool))
    assert pick("foreground_random", view_of(unseen)).reason == "drawn at random, nothing looked at yet"


def test_random_draws_every_free_patch():
    view = view_of(some_maps(blank(8, 24)), occupied={"a": [Region(0, 0, 64, 64)]})
    drawn = Counter(pick("random", view, seed).location.region.x for seed in range(200))
    assert sorted(drawn) == [64, 80, 96, 112, 128]
    assert min(drawn.values()) > 20


def rectangle(rows: slice, columns: slice, nat: float = 0.6, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    field = blank(*shape) + 0.01
    field[rows, columns] = nat
    return field


def test_an_adaptive_box_fits_the_doubt():
    # 10 rows and 6 columns of cells are 80 x 48 pixels: between half a patch and one and a half.
    field = rectangle(slice(20, 30), slice(40, 46))
    found = pick("adaptive_box", view_of(some_maps(field)))
    # The median takes the corners, not the edges.
    assert found.location.region == Region(320, 160, 48, 80)
    assert found.reason == "members unsure here, peak 1 of 1024 of this slide, box fitted to it"


def test_an_adaptive_box_grows_to_half_a_patch_and_stops_at_one_and_a_half():
    small = pick("adaptive_box", view_of(some_maps(rectangle(slice(20, 23), slice(40, 43))))).location.region
    assert (small.width, small.height) == (32, 32)
    assert small.contains(Region(328, 168, 8, 8))
    # A long ridge, highest in the middle: 40 cells are too long, so the threshold rises until 12 are left.
    field = blank(64, 128) + 0.01
    field[30:36, 40:80] = 0.3 + 0.01 * (20 - np.abs(np.arange(40) - 19.5))
    ridge = pick("adaptive_box", view_of(some_maps(field))).location.region
    assert 48 <= ridge.width <= 96
    assert ridge.height == 48
    assert ridge.contains(Region(59 * 8, 240, 8, 48))


def test_a_plateau_that_is_too_large_gives_a_box_of_half_a_patch():
    found = pick("adaptive_box", view_of(some_maps(blank(64, 64) + 0.5))).location.region
    assert (found.width, found.height) == (32, 32)


def test_an_adaptive_box_leaves_out_what_is_occupied():
    field = rectangle(slice(20, 30), slice(40, 50))
    field[50:56, 10:16] = 0.3
    # The right part is taken; 40 of 80 columns of pixels are left.
    part = {"a": [Region(360, 0, 100, 400)]}
    assert pick("adaptive_box", view_of(some_maps(field), occupied=part)).location.region == Region(
        320, 160, 40, 80
    )
    # Too little is left: the next peak.
    most = {"a": [Region(330, 0, 100, 400)]}
    assert pick("adaptive_box", view_of(some_maps(field), occupied=most)).location.region == Region(
        80, 400, 48, 48
    )


def test_an_adaptive_box_on_a_lone_cell_of_tissue_is_refused_for_a_patch():
    tissue = np.zeros((64, 64), bool)
    tissue[20:24, 20:24] = True
    tissue[60, 60] = True
    field = rectangle(slice(60, 61), slice(60, 61)) + 0.01
    maps = some_maps(field, tissue=tissue)
    table = patch_table("a", maps, PATCH)
    assert doubt_field(table, maps).heights().max() < 0.05
    assert pick("adaptive_box", view_of(maps)).location.region.overlaps(Region(160, 160, 32, 32))


def test_boxes_stay_inside_slides_that_end_within_a_cell():
    field = rectangle(slice(60, 64), slice(60, 64))
    maps = some_maps(field)
    maps.slide_size_px = (507, 509)
    region = pick("adaptive_box", view_of(maps)).location.region
    assert Region(0, 0, 507, 509).contains(region)


@pytest.mark.parametrize("name", list(PATCH_STRATEGIES))
def test_every_strategy_takes_a_free_patch_inside_the_slide_and_the_same_one_again(name):
    rng = np.random.default_rng(5)
    field = rng.gamma(1.0, 0.1, (40, 56))
    predicted = (field > 0.3).astype(int)
    maps = [some_maps(field, predicted=predicted, is_coarse=True), some_maps(field.T.copy())]
    taken = {"a": [Region(100, 50, 80, 80)], "b": [Region(0, 0, 100, 320)]}
    for asked in range(8):
        view = view_of(*maps, occupied=taken, asked=asked)
        before = [table.doubt.copy() for table in view.tables]
        found = pick(name, view, seed=asked)
        assert found == pick(name, view, seed=asked)
        region = found.location.region
        width, height = {"a": (448, 320), "b": (320, 448)}[found.location.slide]
        assert Region(0, 0, width, height).contains(region)
        assert not any(region.overlaps(other) for other in taken[found.location.slide])
        assert all(type(number) is int for number in region.bbox)
        for table, doubt in zip(view.tables, before, strict=True):
            np.testing.assert_array_equal(table.doubt, doubt)


@pytest.mark.parametrize("name", list(PATCH_STRATEGIES))
def test_no_strategy_chooses_among_nothing(name):
    view = view_of(some_maps(blank(8, 8)), occupied={"a": [Region(0, 0, 64, 64)]})
    with pytest.raises(BadInputError, match=f"{name} was asked to choose among no patches"):
        pick(name, view)


def test_all_strategies_have_a_sentence_for_people():
    assert set(PATCH_STRATEGIES) == {
        "most_uncertain", "clasp_pe", "sure_and_unsure", "uga", "pairwise_dice", "adaptive_box", "foreground_random",
        "random",
    }  # fmt: skip
    assert all(PATCH_STRATEGIES[name].description.endswith((".", ").")) for name in PATCH_STRATEGIES)


def test_by_turns_where_members_are_surest_and_where_they_doubt():
    """Doubt lies in patch 0, sure tumour in 2 and 4 and a sure gland in 3; half of any ten questions go to either."""
    classes = ("background", "Tumor", "Gland")
    probability = np.stack(
        [spots(1, 6), spots(1, 6, (0, 2, 0.99), (0, 4, 0.9)), spots(1, 6, (0, 3, 0.95), (0, 5, 0.8))]
    )
    doubt = spots(1, 6, (0, 0, 0.6))
    maps = some_maps(doubt, class_doubt=np.stack([doubt, doubt]), classes=classes)
    maps = replace(maps, probability=probability.astype(np.float16))
    asked: list[tuple[int, str, float | None]] = []
    for had in range(10):
        # What was asked elsewhere on the slide, beside the patches that stand to choose.
        before = [Region(1000, 1000 + 64 * n, 64, 64) for n in range(had)]
        found = pick("sure_and_unsure", view_of(maps, occupied={"a": before}, progress=1.0), seed=3)
        asked.append((found.location.region.x, found.reason, found.score))
    sure = [one for one in asked if one[1].startswith("members sure of")]
    assert len(sure) == 5
    assert sure[0] == (128, "members sure of Tumor, top 5 % of this slide's patches", None)
    assert {x for x, _, _ in sure} == {128, 192}, "each class in its turn"
    assert {x for x, reason, _ in asked if reason.startswith("members unsure")} == {0}
    # What was asked about is not asked about again.
    view = view_of(maps, occupied={"a": [Region(128, 0, 64, 64)]})
    assert pick("sure_and_unsure", view).location.region.x == 256


def test_slides_of_which_a_strategy_does_not_know_enough_yet_are_passed_over():
    high, low = some_maps(spots(1, 3, (0, 0, 0.6))), some_maps(spots(1, 3, (0, 1, 0.2)))
    for name in ("uga", "pairwise_dice", "adaptive_box"):
        view = view_of(high, low)
        del view.tables[0].extras[name]
        assert pick(name, view).location.slide == "b"
        # Of no slide: by doubt alone.
        del view.tables[1].extras[name]
        assert pick(name, view).location.slide == "a"


def test_one_draw_takes_a_patch_as_often_as_noise_on_every_score_would():
    scores, rng, times = np.array([0.1, 0.2, 0.0, 0.4]), np.random.default_rng(0), 4000
    # beta is 40 / 40 at the start: chances in proportion to the scores.
    drawn = Counter(clasp.drawn(scores, 40, 0.0, rng) for _ in range(times))
    noisy = Counter(int(clasp.noisy(scores, 40, 0.0, rng).argmax()) for _ in range(times))
    for place, share in ((0, 1 / 7), (1, 2 / 7), (2, 0.0), (3, 4 / 7)):
        assert drawn[place] / times == pytest.approx(share, abs=0.03)
        assert noisy[place] / times == pytest.approx(share, abs=0.03)
    # beta is 100 at the end.
    assert {clasp.drawn(scores, 40, 1.0, rng) for _ in range(100)} == {3}
    assert {clasp.drawn(np.zeros(2), 40, 0.5, rng) for _ in range(100)} == {0, 1}
