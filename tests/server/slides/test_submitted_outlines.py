"""What is submitted of a slide becomes labels of the rectangles that were judged; the rest stays unknown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.domain.labels import IGNORE
from overread.server.slides import regions, submissions
from overread.server.turns import record_turn
from overread.state.servings import CONTROL, EXPIRED, SKIPPED, SUBMITTED, servings
from support.slide_store import CLASSES, HEIGHT, RECIPE, WIDTH, asap, rectangle

PATCH = (100, 60, 80, 40)
NAME = "one-patch-100_60_80_40"


def outcomes(folder) -> list[str | None]:
    with folder.database.reading() as c:
        return [serving.outcome for serving in servings(c)]


def expected(*painted: tuple[int, slice, slice], size=(40, 20), ground=0) -> np.ndarray:
    label = np.full(size, ground, np.uint8)
    for value, x, y in painted:
        label[x, y] = value
    return label


# -- a patch


def test_a_patch_is_judged_wholly_and_its_coordinates_count_from_its_corner(store, folder):
    xml = asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH)
    told = folder.send(store, NAME, xml)
    assert [label["patch"] for label in told["labels"]] == [NAME]
    np.testing.assert_array_equal(folder.label(NAME), expected((1, slice(5, 20), slice(2, 7))))
    (row,) = folder.rows()
    assert (row.patient, row.rater, row.recipe, row.partial, row.arm) == ("one", "anna", RECIPE, False, "")
    assert (folder.accepted.folder / row.details["xml"]).read_bytes() == xml


def test_what_is_accepted_fits_the_picture_that_training_cuts(store, folder, tmp_path):
    folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH))
    picture = tmp_path / "patch.png"
    Image.new("RGB", (40, 20)).save(picture)
    assert folder.accepted.check(RECIPE, lambda case: picture, CLASSES, 3000.0) == []


def test_viewers_see_a_patchs_objects_at_their_place_on_the_slide(store, folder):
    folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH))
    shown = store.known_label("one", "final").read_text()
    assert 'X="110" Y="64"' in shown
    assert 'Name="Tumor"' in shown


def test_a_patch_that_was_served_answers_its_serving_even_when_it_is_sent_again(store, folder):
    folder.serve(PATCH, arm=CONTROL, lease_s=1)
    folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH))
    folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 20)), box=PATCH))
    assert [(row.arm, row.strategy, row.revision) for row in folder.rows()] == [
        (CONTROL, "most_uncertain", 1),
        (CONTROL, "most_uncertain", 2),
    ]
    assert outcomes(folder) == [SUBMITTED]


def test_what_hangs_over_the_slides_border_is_cut_off(store, folder):
    name = f"one-patch-{WIDTH - 20}_0_40_20"
    folder.send(store, name, asap(("Tumor", rectangle(WIDTH - 10, 0, 14, 20)), box=(WIDTH - 20, 0, 40, 20)))
    (row,) = folder.rows()
    assert row.case_id == f"one-patch-{WIDTH - 20}_0_20_20"
    np.testing.assert_array_equal(
        folder.label(row.case_id), expected((1, slice(5, 10), slice(None)), size=(10, 10))
    )


# -- the whole slide


def test_of_a_slide_only_the_served_rectangle_that_an_object_touches_is_judged(store, folder):
    folder.serve((0, 0, 40, 40))
    folder.serve(PATCH)
    told = folder.send(store, "one", asap(("Tumor", rectangle(90, 64, 30, 10))))
    assert [label["patch"] for label in told["labels"]] == [NAME]
    np.testing.assert_array_equal(folder.label(NAME), expected((1, slice(0, 10), slice(2, 7))))
    assert outcomes(folder) == [None, SUBMITTED]
    (row,) = folder.rows()
    assert (row.champion, row.strategy, row.took_s is not None) == ("abc", "most_uncertain", True)


def test_a_rectangle_of_class_background_holds_nothing(store, folder):
    folder.serve(PATCH)
    folder.serve((180, 60, 80, 40))
    folder.send(store, "one", asap(("Background", rectangle(*PATCH))))
    assert [row.case_id for row in folder.rows()] == [NAME]
    assert not folder.label(NAME).any()


def test_an_object_outside_all_rectangles_counts_for_itself_and_around_it_nothing_is_known(store, folder):
    folder.serve(PATCH)
    triangle = [(200, 200), (240, 200), (200, 220)]
    folder.send(store, "one", asap(("Tumor", rectangle(110, 64, 30, 10)), ("Stroma", triangle)))
    assert [(row.case_id, row.partial) for row in folder.rows()] == [
        (NAME, False),
        ("one-patch-200_200_40_20", True),
    ]
    label = folder.label("one-patch-200_200_40_20")
    assert label.shape == (20, 10)
    assert (label[0, 0], label[19, 9], label[18, 0], label[0, 9]) == (2, IGNORE, 2, 2)
    assert set(np.unique(label)) == {2, IGNORE}


@pytest.mark.parametrize("outcome", [SKIPPED, EXPIRED])
def test_a_rectangle_of_which_nothing_was_said_before_is_judged(store, folder, outcome):
    folder.end(folder.serve(PATCH, lease_s=1), outcome)
    folder.send(store, "one", asap(("Tumor", rectangle(110, 64, 30, 10))))
    assert [row.case_id for row in folder.rows()] == [NAME]
    assert outcomes(folder) == [SUBMITTED]


def test_another_clients_rectangle_is_not_judged(store, folder):
    folder.serve(PATCH, client="ben")
    folder.send(store, "one", asap(("Tumor", rectangle(110, 64, 30, 10))))
    assert [row.case_id for row in folder.rows()] == ["one-patch-110_64_30_10"]


def test_while_the_lease_would_last_what_came_before_is_corrected_and_not_kept_twice(store, folder):
    tumor = ("Tumor", rectangle(110, 64, 30, 10))
    folder.serve(PATCH)
    folder.send(store, "one", asap(tumor))
    assert folder.send(store, "one", asap(tumor))["unchanged"] == [NAME]
    folder.send(store, "one", asap(tumor, ("Stroma", rectangle(150, 64, 20, 10))))
    assert [(row.case_id, row.revision) for row in folder.rows()] == [(NAME, 1), (NAME, 2)]


def test_what_was_judged_longer_ago_is_left_as_it_is(store, folder):
    folder.serve(PATCH, lease_s=1)
    both = ("Tumor", rectangle(110, 64, 30, 10)), ("Stroma", rectangle(150, 64, 20, 10))
    folder.send(store, "one", asap(*both))
    # In another sitting the second object is not there any more, and a new one lies elsewhere.
    told = folder.send(store, "one", asap(both[0], ("Tumor", rectangle(300, 200, 20, 20))))
    assert told["objects_in_earlier_labels"] == 1
    assert [row.case_id for row in folder.rows()] == [NAME, "one-patch-300_200_20_20"]


def test_a_rectangle_that_the_xml_names_is_judged_wholly(store, folder):
    # Coordinates are the slide's: the box is not taken from them.
    xml = asap(("Tumor", rectangle(110, 64, 30, 10))).replace(
        b'X="0" Y="0" W="0" H="0"', b'X="100" Y="60" W="80" H="40"'
    )
    folder.send(store, "one", xml)
    np.testing.assert_array_equal(folder.label(NAME), expected((1, slice(5, 20), slice(2, 7))))


def test_a_large_rectangle_becomes_a_grid_of_patches(store, folder, monkeypatch):
    monkeypatch.setattr(regions, "MOST_PX", 20)
    folder.send(store, NAME, asap(("Tumor", rectangle(*PATCH)), box=PATCH))
    assert [row.case_id for row in folder.rows()] == [f"one-patch-{x}_60_40_40" for x in (100, 140)]
    assert all((folder.label(row.case_id) == 1).all() for row in folder.rows())


# -- classes


def test_smaller_objects_lie_over_larger_ones_and_of_two_alike_the_later_one(store, folder):
    xml = asap(
        ("stroma", rectangle(110, 64, 10, 10)),
        ("TUMOR", rectangle(100, 60, 80, 40)),
        ("Ignore*", rectangle(150, 64, 10, 10)),
        ("background", rectangle(170, 80, 10, 10)),
        ("Tumor", rectangle(130, 64, 10, 10)),
        ("Stroma", rectangle(130, 64, 10, 10)),
        box=PATCH,
    )
    folder.send(store, NAME, xml)
    ys = slice(2, 7)
    np.testing.assert_array_equal(
        folder.label(NAME),
        expected(
            (2, slice(5, 10), ys),
            (IGNORE, slice(25, 30), ys),
            (0, slice(35, 40), slice(10, 15)),
            (2, slice(15, 20), ys),
            ground=1,
        ),
    )
    assert folder.rows()[0].partial


@pytest.mark.parametrize(
    "word", ["doubt: high", "doubt high", "high", "doubt: moderate", "Positive", "negative", "Region*"]
)
def test_doubt_clicks_and_regions_are_no_labels_and_that_is_said(store, folder, word):
    told = folder.send(
        store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), (word, rectangle(*PATCH)), box=PATCH)
    )
    assert told["left_out"] == [f"1 of class {word!r} are no labels"]
    np.testing.assert_array_equal(folder.label(NAME), expected((1, slice(5, 20), slice(2, 7))))


# -- provenance


def test_what_was_asked_about_the_slide_is_kept_with_its_labels(store, folder):
    record_turn(
        folder.database,
        case_id="one",
        client_id="anna",
        recipe=RECIPE,
        champion="def",
        kind="inference",
        params={"measure": "predictive_entropy"},
        now=1.0,
    )
    folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH))
    (row,) = folder.rows()
    assert row.champion == "def"
    assert [turn["asked"] for turn in row.details["interactions"]] == [{"measure": "predictive_entropy"}]


def test_the_answer_is_plain_json(store, folder):
    told = folder.send(store, NAME, asap(("Tumor", rectangle(110, 64, 30, 10)), box=PATCH))
    assert json.loads(json.dumps(told, allow_nan=False))["rater"] == "anna"


# -- refusals: nothing changes


@pytest.mark.parametrize(
    ("image", "xml", "sentence"),
    [
        ("one", b"<ASAP_Annotations><Anno", "are no XML"),
        (
            "one",
            asap(("Lymphocyte", rectangle(0, 0, 9, 9))),
            "unknown class 'Lymphocyte'; expected .*'Tumor'",
        ),
        ("one", asap(("Tumor", rectangle(WIDTH + 5, 0, 9, 9))), "lies outside the slide"),
        (
            "one",
            asap(("Tumor", rectangle(0, 0, 9, 9)), ("Tumor", rectangle(0, HEIGHT + 1, 9, 9))),
            "lies outside the slide",
        ),
        ("one", asap(("doubt: high", rectangle(0, 0, 9, 9))), "nothing is labelled on slide 'one'"),
        ("one", asap(("Tumor", rectangle(7, 7, 0.5, 0.5))), "none covers a pixel of 1 µm"),
        (
            NAME,
            asap(("doubt high", rectangle(*PATCH)), box=PATCH),
            "give the rectangle itself the class background",
        ),
        (
            NAME,
            asap(("Tumor", rectangle(0, 0, 9, 9)), box=(0, 0, 90, 90)),
            "leave the name as QuPath proposes it",
        ),
        (
            f"one-patch-{WIDTH}_0_9_9",
            asap(("Tumor", rectangle(WIDTH, 0, 9, 9)), box=(WIDTH, 0, 9, 9)),
            r"the rectangle \[400, 0, 9, 9\] lies outside slide 'one', which has 400 x 300 pixels",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_words_and_nothing_changes(store, folder, image, xml, sentence):
    with pytest.raises(BadInputError, match=sentence):
        folder.send(store, image, xml)
    assert folder.rows() == []
    assert store.status()["completed"] == 0


def test_too_much_at_a_time_is_refused(store, folder, monkeypatch):
    xml = asap(("Tumor", rectangle(0, 0, 9, 9)), ("Tumor", rectangle(20, 0, 9, 9)))
    monkeypatch.setattr(submissions, "MOST_LABELS", 1)
    with pytest.raises(BadInputError, match="makes 2 labels, at most 1 are taken"):
        folder.send(store, "one", xml)
    monkeypatch.setattr(submissions, "MOST_LABELS", 2)
    monkeypatch.setattr(submissions, "MOST_LABEL_PX", 10)
    with pytest.raises(BadInputError, match="million pixels of 1 µm"):
        folder.send(store, "one", xml)


def test_a_patch_of_an_unknown_slide_is_not_found(store, folder):
    with pytest.raises(NotFoundError, match="no image is called 'two'"):
        folder.send(store, "two-patch-0_0_9_9", asap(("Tumor", rectangle(0, 0, 9, 9)), box=(0, 0, 9, 9)))


def test_all_labels_of_a_submission_are_kept_or_none(store, folder):
    folder.serve(PATCH)
    # The folder where the second label would lie cannot be made.
    (folder.accepted.folder / "one-patch-300_200_20_20").write_text("in the way")
    xml = asap(("Tumor", rectangle(110, 64, 30, 10)), ("Tumor", rectangle(300, 200, 20, 20)))
    with pytest.raises(FileExistsError):
        folder.send(store, "one", xml)
    assert folder.rows() == []
    assert list(folder.accepted.folder.glob("**/*.nii.gz")) == []
    assert outcomes(folder) == [None]
