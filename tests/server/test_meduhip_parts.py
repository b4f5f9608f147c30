"""What a clinician says becomes the next proposal: clicks, regions, words and sittings, without a server."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Grid, Opinions
from overread.ensemble.preparation import prepare
from overread.imaging.volumes import Volume
from overread.meduhip.reader import OpenImage
from overread.meduhip.session import LEVEL_STEP, NUDGE_STEP, begin
from overread.server.meduhip.clicks import Clicks, Said, read_clicks
from overread.server.meduhip.encoded import EncodedImages, Opened
from overread.server.meduhip.opinions import ROWS_AT_ONCE, bands_of, prediction_of
from overread.server.meduhip.sittings import Sitting, Sittings, Who, changes
from overread.server.meduhip.task import as_seen
from overread.server.meduhip.turns import NONE_OF_THESE, Turns
from overread.server.meduhip.views import label_map, middle_of, regions_of
from overread.server.meduhip.words import difference_in_words, where
from overread.server.overlays import draw_turn, label_values
from overread.state.database import Database
from overread.uncertainty.agreement import AgreementCounts
from overread.uncertainty.calibration import DoubtBands
from overread.uncertainty.measures import MEASURES
from support.servers import oblique_grid
from support.styles import CORE_BOX, MIDDLE_BOX, OUTER_BOX, SHAPE, THRESHOLDS, shells, threshold_styles

CLASSES = ("background", "organ")
PAIR = ("background", "organ", "tumour")
RIGHT = Grid((10, 8, 6), np.diag([1.0, 1, 2, 1]))
LEFT = Grid((10, 8, 6), np.diag([-1.0, 1, 2, 1]))


def box(where_: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[where_] = True
    return mask


OUTER, MIDDLE, CORE = box(OUTER_BOX), box(MIDDLE_BOX), box(CORE_BOX)


def turns_at(
    grid: Grid, voxels: np.ndarray, structures=(THRESHOLDS,), classes=CLASSES
) -> tuple[Turns, Sitting]:
    model, plan = threshold_styles(3, structures)
    prepared = prepare(plan, Volume(voxels[None], grid))
    image = OpenImage(model, prepared, model.encode(prepared.voxels[None]))
    session = begin(model, "image", "champion")
    return Turns(model, Opened(image, grid), classes), Sitting(session, session)


@pytest.fixture(scope="module")
def desk() -> tuple[Turns, Sitting]:
    return turns_at(Grid(SHAPE, np.eye(4)), shells())


# -- clicks -----------------------------------------------------------------------------------------------------------


def test_each_label_has_clicks_of_its_own_and_background_is_background():
    request = {"organ": [[1, 2, 3]], "background": [[4, 5, 0]], "candidate B": [[0, 0, 0]], "doubt": ["off"]}
    assert read_clicks(request, CLASSES, RIGHT, 3).made == (
        Said("click", "organ", True, (1, 2, 3)),
        Said("click", "candidate B", True, (0, 0, 0)),
        Said("click", "background", False, (4, 5, 0)),
    )


def test_foreground_is_of_the_selected_label_and_says_nothing_of_others():
    request = {"label": "tumour", "foreground": [[1, 2, 3]], "background": [[4, 5, 0]]}
    clicks = read_clicks(request, PAIR, RIGHT, 3)
    assert clicks.made == (
        Said("click", "tumour", True, (1, 2, 3)),
        Said("click", "tumour", False, (4, 5, 0)),
    )
    assert not clicks.speaks_of(Said("click", "organ", True, (0, 0, 0)))
    with pytest.raises(BadInputError, match="does not say what 'foreground' is"):
        read_clicks(request | {"label": "spleen"}, PAIR, RIGHT, 3)
    assert read_clicks({"foreground": [], "background": []}, PAIR, RIGHT, 3).made == ()


def test_slices_of_a_left_handed_image_are_counted_as_slicer_holds_it():
    assert read_clicks({"organ": [[1, 2, 0]]}, CLASSES, LEFT, 3).made[0].place == (1, 2, 5)
    stored = {"organ": [[1, 2, 0]], "voxel_order": "stored"}
    assert read_clicks(stored, CLASSES, LEFT, 3).made[0].place == (1, 2, 0)
    with pytest.raises(BadInputError, match="voxel_order 'odd' is not known"):
        read_clicks({"voxel_order": "odd"}, CLASSES, LEFT, 3)


def test_a_picture_may_have_a_third_number():
    picture = Grid((10, 8), np.eye(4))
    made = read_clicks({"organ": [[1, 2, 0], [3, 4]]}, CLASSES, picture, 2).made
    assert [said.place for said in made] == [(1, 2), (3, 4)]
    with pytest.raises(BadInputError, match="expected two whole numbers"):
        read_clicks({"organ": [[1]]}, CLASSES, picture, 2)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"organ": [[10, 0, 0]]}, r"'organ' at \[10, 0, 0\] lies outside the image of \[10, 8, 6\] voxels"),
        ({"organ": [[0, 0, -1]]}, "lies outside"),
        ({"organ": [[1, 2]]}, "expected three whole numbers"),
        ({"organ": [[1, 2, 2.5]]}, "expected three whole numbers"),
        ({"organ": [["1", 2, 3]]}, "expected three whole numbers"),
        ({"organ": [[True, 2, 3]]}, "expected three whole numbers"),
        ({"organ": "somewhere"}, "expected a list of voxels"),
        ({"spleen": [[1, 2, 3]]}, "clicks on 'spleen'; the model's classes are 'organ'"),
        ({"doubt: high": [[1, 2, 3]]}, "clicks on 'doubt: high'"),
    ],
)
def test_what_is_no_click_is_refused_with_a_sentence(request_, sentence):
    with pytest.raises(BadInputError, match=sentence):
        read_clicks(request_, CLASSES, RIGHT, 3)


# -- what was said before ---------------------------------------------------------------------------------------------


def said(*places: int) -> tuple[Said, ...]:
    return tuple(Said("click", "organ", True, (n, 0, 0)) for n in places)


PICK = Said("pick", "candidate B")


def test_only_clicks_that_were_not_there_before_are_new():
    found = changes((*said(1), PICK, *said(2)), Clicks(said(2, 1, 3)))
    assert (found.stands, found.again, found.new) == ((*said(1), PICK, *said(2)), (), said(3))


def test_after_a_click_that_was_taken_back_clicks_remain_and_picks_do_not():
    found = changes((*said(1), PICK, *said(2), PICK, *said(3)), Clicks(said(1, 3)))
    assert (found.stands, found.again, found.new) == ((*said(1), PICK), said(3), ())


def test_the_same_voxel_clicked_twice_is_two_clicks():
    assert changes(said(1), Clicks(said(1, 1))).new == said(1)


def test_a_client_that_sends_one_labels_clicks_takes_back_no_others():
    other = Said("click", "tumour", True, (5, 0, 0))
    assert changes((*said(1), other), Clicks(said(), "organ")).again == (other,)
    assert changes((*said(1), other), Clicks(said(1), "organ")).stands == (*said(1), other)


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_largest_vote_above_one_half_is_the_label():
    votes = torch.tensor([[0.4, 0.6, 0.7, 0.5], [0.3, 0.7, 0.1, 0.2]])
    assert label_map(votes).tolist() == [0, 2, 1, 0]


def test_regions_are_where_candidates_differ_and_the_better_supported_has_the_voxel():
    shown = np.array([1, 1, 0, 0], bool)
    first, second = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert regions_of(shown, [first, second]).tolist() == [2, 0, 1, 2]
    assert regions_of(shown, [shown]).tolist() == [0, 0, 0, 0]


def test_the_middle_of_a_region_lies_in_it():
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    assert ring[middle_of(ring)]
    assert middle_of(np.zeros((5, 5), bool)) is None


def test_a_region_is_called_by_where_it_lies_in_the_patient():
    organ = np.zeros((20, 20, 20), bool)
    organ[5:15, 5:15, 5:15] = True

    def at(x, y, z):
        part = np.zeros_like(organ)
        part[x, y, z] = True
        return where(part, organ)

    middle = slice(8, 12)
    assert at(middle, middle, slice(15, 17)) == "the upper pole"
    assert at(middle, middle, slice(3, 6)) == "the lower pole"
    assert at(slice(14, 16), middle, middle) == "the right part"
    assert at(slice(4, 6), slice(14, 16), slice(13, 16)) == "the upper left front part"
    assert at(middle, middle, middle) == "the middle"
    assert at(slice(4, 16), slice(4, 16), slice(4, 16)) == "all round"
    picture = organ[:, :, 10]
    part = np.zeros_like(picture)
    part[middle, 4:6] = True
    # The second axis of a picture runs down.
    assert where(part, picture) == "the upper pole"


def test_a_difference_is_told_in_volume_and_place():
    organ = np.zeros((20, 20, 20), bool)
    organ[5:15, 5:15, 5:15] = True
    added, removed, nothing = np.zeros_like(organ), np.zeros_like(organ), np.zeros_like(organ)
    added[5:15, 5:15, 15:17] = True
    removed[5:15, 5:8, 5:15] = True
    told = difference_in_words(added, removed, organ, 0.01, "mL")
    assert told == "+2 mL, −3 mL, adds the upper pole, removes the back part"
    assert difference_in_words(nothing, nothing, organ, 0.01, "mL") == "the same"


def test_overlays_take_voxels_from_the_classes_or_stand_alone():
    labels = np.array([1, 1, 0, 1, 0], np.uint8)
    regions, bands = np.array([2, 0, 1, 0, 0], np.uint8), np.array([2, 2, 0, 1, 0], np.uint8)
    names = label_values(CLASSES, True)
    assert names == {
        "organ": 1,
        "candidate A": 2,
        "candidate B": 3,
        "candidate C": 4,
        "candidate D": 5,
        "doubt: moderate": 6,
        "doubt: high": 7,
    }

    def drawn(candidates, doubt, listed=True):
        drawing = draw_turn(labels, regions, bands, CLASSES, candidates, doubt, listed)
        return drawing.values.tolist(), drawing.names

    inside, bands_inside = "regions inside the labels", "bands inside the labels"
    assert drawn(inside, bands_inside) == ([3, 7, 2, 6, 0], names)
    assert drawn("off", bands_inside) == ([7, 7, 0, 6, 0], names)
    assert drawn(inside, "off") == ([3, 1, 2, 1, 0], names)
    candidates = {f"candidate {letter}": n for n, letter in enumerate("ABCD", start=1)}
    assert drawn("regions only", bands_inside) == ([2, 0, 1, 0, 0], candidates)
    both = candidates | {"doubt: moderate": 5, "doubt: high": 6}
    assert drawn("regions only", "bands only") == ([2, 6, 1, 5, 0], both)
    assert drawn(inside, "bands only") == ([2, 2, 0, 1, 0], {"doubt: moderate": 1, "doubt: high": 2})
    with pytest.raises(BadInputError, match="at most 250 do"):
        label_values(tuple(map(str, range(251))), True)
    assert max(label_values(tuple(map(str, range(250))), True).values()) == 255


# -- turns ------------------------------------------------------------------------------------------------------------


def test_the_first_answer_is_what_most_styles_say_with_the_others_on_offer(desk):
    turns, sitting = desk
    view = turns.view(sitting)
    np.testing.assert_array_equal(view.labels == 1, MIDDLE)
    np.testing.assert_array_equal(view.regions[0], np.select([MIDDLE & ~CORE, OUTER & ~MIDDLE], [3, 2], 0))
    assert [offer.letter for offer in view.offers[0]] == ["A", "B", "C"]
    assert [round(offer.support, 2) for offer in view.offers[0]] == [0.33, 0.33, 0.33]
    same, larger, smaller = view.offers[0]
    assert (same.words, same.place) == ("the same", None)
    assert larger.label == "B: +2.2 mL, adds the upper pole (33 %)"
    assert larger.added == pytest.approx((OUTER & ~MIDDLE).sum() / 1000)
    assert smaller.removed == pytest.approx((MIDDLE & ~CORE).sum() / 1000)
    assert larger.to_json()["volume_ml"] == pytest.approx(OUTER.sum() / 1000, abs=1e-4)


def test_samples_are_opinions_of_an_ensemble_however_few_rows_are_measured_at_a_time(desk):
    turns, sitting = desk
    view = turns.view(sitting)
    assert SHAPE[0] > ROWS_AT_ONCE, "in several parts"
    measures = ("predictive_entropy", "variation_ratio")
    found = prediction_of(turns.opened, view, measures, temperature=2.0)
    one = view.answers[0].turn.logits[0]
    sums = Opinions(torch.stack([torch.zeros_like(one), one], dim=1).div(2).softmax(dim=1)).sums()
    image = turns.opened.image
    torch.testing.assert_close(found.probabilities[1], image.to_input(sums.mean[1:])[0])
    for name in measures:
        whole = image.to_input(MEASURES[name](sums).values[None])[0]
        torch.testing.assert_close(found.maps[name].values, whole)
    counts = AgreementCounts(len(one), 2)
    counts.add((one > 0).to(torch.uint8))
    assert found.scores == {"pairwise_dice_disagreement": counts.pairwise_dice_disagreement()}


def test_the_next_answer_follows_a_picked_candidate_and_none_of_these_widens_it_again(desk):
    turns, sitting = desk
    picked, _ = turns.take(sitting, Clicks(), "candidate B", None)
    view = turns.view(picked)
    np.testing.assert_array_equal(view.labels == 1, OUTER)
    assert view.offers[0][0].support > 0.7
    none, _ = turns.take(replace(picked, option="candidate B"), Clicks(), NONE_OF_THESE, view)
    assert none.session.structures[0].explored == 1
    assert turns.view(none).offers[0][0].support < view.offers[0][0].support
    with pytest.raises(BadInputError, match="'candidate D' is not on offer; there are A, B, C"):
        turns.take(sitting, Clicks(), "candidate D", None)


def test_an_option_that_the_viewer_goes_on_sending_picks_once(desk):
    turns, sitting = desk
    picked, _ = turns.take(sitting, Clicks(), "candidate B", None)
    picked = replace(picked, option="candidate B")
    click = Said("click", "organ", True, (9, 9, 3))
    following, _ = turns.take(picked, Clicks((click,)), "candidate B", None)
    assert [one.kind for one in following.said] == ["pick", "click"]


@pytest.mark.parametrize(
    ("click", "picks", "shown"),
    [
        (Said("click", "organ", True, (20, 20, 8)), True, OUTER),
        (Said("click", "background", False, (11, 11, 3)), True, CORE),
        (Said("click", "candidate B", True, (20, 20, 8)), True, OUTER),
        (Said("click", "candidate C", True, (11, 11, 3)), True, CORE),
        # The candidate there says the opposite.
        (Said("click", "background", False, (20, 20, 8)), False, None),
    ],
)
def test_a_click_in_a_region_on_its_candidates_side_picks_it(desk, click, picks, shown):
    turns, sitting = desk
    after, _ = turns.take(replace(sitting, offered=True), Clicks((click,)), "", None)
    view = turns.view(after)
    state = after.session.structures[0]
    assert bool(state.clicks[-1].foreground) == bool(view.labels[click.place])
    if picks:
        np.testing.assert_array_equal(view.labels == 1, shown)
    # A pick names the samples of one group; a free click doubts those that see it otherwise.
    free, _ = turns.take(replace(sitting, offered=False), Clicks((replace(click),)), "", None)
    is_named = click.about.startswith("candidate")
    assert (free.session.structures[0].weights == state.weights) is (is_named or not picks)


@pytest.fixture(scope="module")
def slope() -> tuple[Turns, Sitting]:
    """A model of one style at an image that fades outwards, so that its samples agree and its border is unsure."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
    middle = np.array(SHAPE).reshape(-1, 1, 1, 1) / 2
    distance = np.sqrt(((places - middle) ** 2).sum(axis=0))
    voxels = np.clip(150 - 6 * distance, 0, None).astype(np.float32)
    return turns_at(Grid(SHAPE, np.eye(4)), voxels, structures=((80.0,),))


def test_wider_and_tighter_are_told_in_words_and_picked_by_name(slope):
    turns, sitting = slope
    view = turns.view(sitting)
    shown = view.labels == 1
    _, wider, tighter = view.offers[0]
    assert re.fullmatch(r"B: wider all round, \+[\d.]+ mL", wider.label)
    assert re.fullmatch(r"C: tighter all round, −[\d.]+ mL", tighter.label)
    assert (wider.to_json()["support"], wider.removed, tighter.added) == (0.0, 0.0, 0.0)
    picked, _ = turns.take(sitting, Clicks(), "candidate B", None)
    drawn = turns.view(picked).labels == 1
    assert int((drawn & ~shown).sum()) / 1000 == pytest.approx(wider.added)
    assert bool((drawn | ~shown).all())


def test_a_click_in_the_rim_of_a_wider_one_corrects_one_spot(slope):
    turns, sitting = slope
    view = turns.view(sitting)
    shown = view.labels == 1
    rim = tuple(int(n) for n in np.argwhere(view.regions[0] == 2)[0])
    after, _ = turns.take(
        replace(sitting, offered=True), Clicks((Said("click", "organ", True, rim),)), "", None
    )
    corrected = turns.view(after).labels == 1
    assert corrected[rim]
    state = after.session.structures[0]
    assert -LEVEL_STEP <= state.level < 0
    assert -NUDGE_STEP <= state.nudges[0].level < 0
    assert int((corrected ^ shown).sum()) < int(view.offers[0][1].added * 1000) / 2
    # By the candidate's own name it is the candidate that is meant.
    named, _ = turns.take(sitting, Clicks((Said("click", "candidate B", True, rim),)), "", None)
    assert named.session.structures[0].level < -1


def test_a_click_of_a_candidates_name_outside_its_region_is_on_the_side_that_it_has_there(desk):
    turns, sitting = desk
    after, _ = turns.take(sitting, Clicks((Said("click", "candidate B", True, (15, 15, 3)),)), "", None)
    assert after.said[0].meant is True
    assert turns.view(after).labels[15, 15, 3] == 1


def test_a_click_that_was_taken_back_leaves_the_sitting_as_it_was(desk):
    turns, sitting = desk
    one, two = Said("click", "organ", True, (20, 20, 8)), Said("click", "background", False, (3, 3, 3))
    first, _ = turns.take(sitting, Clicks((one,)), "", None)
    second, _ = turns.take(first, Clicks((one, two)), "", None)
    back, _ = turns.take(second, Clicks((one,)), "", None)
    assert back.session == first.session
    nothing, _ = turns.take(back, Clicks(), "", None)
    assert nothing.session == sitting.begun


OBLIQUE = oblique_grid(SHAPE)
TURNED = Grid((12, 40, 34), np.array([[0, 1.0, 0, 3], [0, 0, -1.0, 5], [2.0, 0, 0, 1], [0, 0, 0, 1]]))


@pytest.mark.parametrize(
    ("grid", "voxels"),
    [
        (OBLIQUE, shells()),
        (TURNED, np.moveaxis(shells(), 2, 0)),
        (Grid(SHAPE, np.diag([-1.0, -1, 3, 1])), shells()),
        (Grid((80, 68, 12), np.diag([0.5, -0.5, 1, 1])), shells().repeat(2, 0).repeat(2, 1)),
        (Grid((20, 17, 12), np.diag([2.0, 2, 1, 1])), np.ascontiguousarray(shells()[::2, ::2])),
    ],
    ids=["oblique, left-handed, resampled", "axes exchanged", "flipped", "finer", "coarser"],
)
def test_every_click_is_honoured_on_the_images_own_voxels(grid, voxels):
    turns, sitting = turns_at(grid, np.ascontiguousarray(voxels))
    rng = np.random.default_rng(0)
    places = [tuple(int(n) for n in place) for place in rng.permutation(np.argwhere(voxels > 0))[:5]]
    # Neighbours on opposite sides can fall into one voxel of the model.
    beside = (places[0][0], places[0][1], places[0][2] + (1 if places[0][2] + 1 < grid.shape[2] else -1))
    clicks: list[Said] = []
    for number, place in enumerate([*places, beside]):
        inside = number % 2 == 0
        clicks.append(Said("click", "organ" if inside else "background", inside, place))
        sitting, _ = turns.take(sitting, Clicks(tuple(clicks)), "", None)
    view = turns.view(sitting)
    for click in clicks:
        assert bool(view.labels[click.place]) == click.foreground


def test_a_picked_candidate_of_one_class_takes_its_voxels_from_the_others_and_keeps_them():
    # Two of three styles have the tumour in the core alone; all of them have organ there, most also round it.
    core, middle = THRESHOLDS[2], THRESHOLDS[0]
    turns, sitting = turns_at(Grid(SHAPE, np.eye(4)), shells(), (THRESHOLDS, (core, core + 1, middle)), PAIR)
    sitting = replace(sitting, focus=1)
    view = turns.view(sitting)
    wanted = next(offer for offer in view.offers[1] if offer.volume == MIDDLE.sum() / 1000)
    assert bool((view.labels[MIDDLE & ~CORE] == 1).all())
    picked, _ = turns.take(sitting, Clicks(), f"candidate {wanted.letter}", None)
    view = turns.view(picked)
    np.testing.assert_array_equal(view.labels, np.where(MIDDLE, 2, 0))

    # What it changed stays after a click elsewhere.
    elsewhere = Said("click", "organ", True, (5, 5, 5))
    later, _ = turns.take(picked, Clicks((elsewhere,)), "", None)
    view = turns.view(later)
    assert view.labels[elsewhere.place] == 1
    assert bool((view.labels[MIDDLE & ~CORE] == 2).all())

    # A click against it is honoured, and so is one that was made before it.
    inside = Said("click", "organ", True, (11, 11, 3))
    against, _ = turns.take(later, Clicks((elsewhere, inside)), "", None)
    assert turns.view(against).labels[inside.place] == 1
    before, _ = turns.take(sitting, Clicks((inside,)), "", None)
    view = turns.view(before)
    letter = max(view.offers[1], key=lambda offer: offer.volume).letter
    picked, _ = turns.take(before, Clicks((inside,)), f"candidate {letter}", None)
    assert turns.view(picked).labels[inside.place] == 1

    # Of two that overlap the later one is shown.
    organ = replace(turns.take(sitting, Clicks(), f"candidate {wanted.letter}", None)[0], focus=0)
    letter = max(turns.view(organ).offers[0], key=lambda offer: offer.volume).letter
    both, _ = turns.take(organ, Clicks(), f"candidate {letter}", None)
    np.testing.assert_array_equal(turns.view(both).labels, np.where(OUTER, 1, 0))


def test_a_voxel_that_was_clicked_is_in_no_band(desk):
    turns, sitting = desk
    place = (20, 20, 8)
    after, _ = turns.take(sitting, Clicks((Said("click", "organ", True, place),)), "", None)
    view = turns.view(after)
    prediction = prediction_of(turns.opened, view, ("predictive_entropy",), 1.0)
    thresholds = DoubtBands("predictive_entropy", 0.3, 0.1, 1.0, 1.0, 1.0, 1.0, 1)
    doubted, told = bands_of(prediction, thresholds), bands_of(prediction, thresholds, after.said)
    assert doubted is not None
    assert told is not None
    assert doubted[place] == 2
    assert [tuple(where_) for where_ in np.argwhere(doubted != told)] == [place]
    assert told[place] == 0


def test_a_click_of_one_class_takes_the_voxel_from_the_others():
    turns, sitting = turns_at(Grid(SHAPE, np.eye(4)), shells(), (THRESHOLDS, THRESHOLDS[::-1]), PAIR)
    view = turns.view(sitting)
    np.testing.assert_array_equal(view.labels > 0, MIDDLE)
    place = (11, 11, 3)
    for about, expected in (("tumour", 2), ("organ", 1)):
        after, _ = turns.take(sitting, Clicks((Said("click", about, True, place),)), "", None)
        view = turns.view(after)
        assert view.labels[place] == expected
        sides = {bool(state.clicks[-1].foreground) for state in after.session.structures}
        assert sides == {True, False}
    after, _ = turns.take(sitting, Clicks((Said("click", "background", False, place),)), "", None)
    assert turns.view(after).labels[place] == 0
    assert [state.clicks[-1].foreground for state in after.session.structures] == [False, False]


def test_where_the_image_is_empty_background_goes_without_saying_and_foreground_is_refused(desk):
    turns, sitting = desk
    after, _ = turns.take(sitting, Clicks((Said("click", "background", False, (0, 0, 0)),)), "", None)
    assert after.session == sitting.session
    with pytest.raises(BadInputError, match="lies where the image is empty"):
        turns.take(sitting, Clicks((Said("click", "organ", True, (0, 0, 0)),)), "", None)


def test_a_sitting_survives_being_written_down(desk):
    turns, sitting = desk
    click = Said("click", "candidate B", True, (20, 20, 8))
    after, _ = turns.take(sitting, Clicks((click,)), "", None)
    after = replace(after, option="", focus=0, offered=True, style="off", purpose="diagnosis")
    assert Sitting.from_json(after.to_json()) == after
    with pytest.raises(BadInputError, match="not a clinician's sitting"):
        Sitting.from_json({"said": [{"x": 1}]})


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_each_client_is_found_where_it_left_off_after_a_restart(tmp_path: Path, desk):
    _, sitting = desk
    database = Database.open(f"sqlite:///{tmp_path / 'overread.db'}")
    who = Who("case", "anna", "recipe", "champion", "image")
    moved = replace(sitting, focus=0, offered=True)
    Sittings(database).keep(who, sitting, 1.0)
    Sittings(database).keep(who, moved, 2.0)
    again = Sittings(database)
    assert again.last(who) == moved
    assert again.last(replace(who, client="bert")) is None
    assert again.last(replace(who, champion="another")) is None
    # Another image under the same name is another sitting.
    assert again.last(replace(who, image="changed")) is None
    unnamed = replace(who, case=None)
    again.keep(unnamed, sitting, 3.0)
    assert again.last(unnamed) == sitting
    assert Sittings(database).last(unnamed) is None


def test_the_longest_unused_images_are_forgotten_first():
    encoded = EncodedImages(100)
    encoded.put("a", 1, 40)
    encoded.put("b", 2, 40)
    assert encoded.get("a") == 1
    encoded.put("c", 3, 40)
    assert (encoded.get("a"), encoded.get("b"), encoded.get("c"), encoded.bytes) == (1, None, 3, 80)
    encoded.put("huge", 4, 101)
    assert encoded.get("huge") is None
    encoded.put("a", 5, 10)
    assert (encoded.get("a"), encoded.bytes) == (5, 50)
    encoded.forget("a")
    assert (encoded.get("a"), encoded.bytes) == (None, 40)


def test_a_model_for_pictures_reads_the_one_slice_of_a_volume():
    volume = Volume(np.zeros((1, 4, 3, 1), np.float32), Grid((4, 3, 1), np.eye(4)))
    assert as_seen(volume, 2).grid.shape == (4, 3)
    assert as_seen(volume, 3) is volume
    with pytest.raises(BadInputError, match="the image has 2 slices"):
        as_seen(Volume(np.zeros((1, 4, 3, 2), np.float32), Grid((4, 3, 2), np.eye(4))), 2)
