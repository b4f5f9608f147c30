"""Every rater's every label is kept, with where it came from and how much of the proposal was corrected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import DBAPIError

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.imaging.volumes import read_labelmap
from overread.learning.accepted import Submission
from overread.learning.label_files import file_name
from overread.state.audit import rows, verify
from overread.state.schema import AUDIT
from overread.state.servings import SUBMITTED, open_servings, servings
from support.labels import CLASSES, GRID, RECIPE, LabelStore, block


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path)


def test_a_label_gets_the_next_revision_and_the_earlier_one_stays_as_it_was(store):
    first = store.add("case", voxels=block(1))
    before = (store.accepted.folder / first.file).read_bytes()
    second = store.add("case", voxels=block(2))
    other = store.add("case", "ben", voxels=block(1, 0, 6))
    assert [row.file for row in (first, second, other)] == [
        "case/anna-1.nii.gz",
        "case/anna-2.nii.gz",
        "case/ben-1.nii.gz",
    ]
    assert [row.revision for row in store.rows()] == [1, 2, 1]
    assert (store.accepted.folder / first.file).read_bytes() == before
    voxels, grid = read_labelmap(store.accepted.folder / second.file)
    np.testing.assert_array_equal(voxels, block(2))
    assert grid.difference_from(GRID) is None


def test_a_file_that_the_database_does_not_know_is_not_written_over(store):
    first = store.add("case")
    fresh = LabelStore.__new__(LabelStore)
    fresh.folder = store.folder / "other"
    fresh.folder.mkdir()
    fresh.__post_init__()
    fresh.accepted.folder = store.accepted.folder
    assert fresh.add("case").file == "case/anna-2.nii.gz"
    assert first.file == "case/anna-1.nii.gz"


def test_names_become_files_without_meeting(store):
    names = [
        "anna",
        "Dr. Anna/Müller",
        "Dr. Anna Müller",
        "dr-anna-m-ller",
        "../../evil",
        "x" * 190,
        ".",
        "a~b",
    ]
    files = {file_name(name) for name in names}
    assert len(files) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) <= 100 for name in files)
    assert file_name("case 12_b.v2") == "case 12_b.v2"
    row = store.add("ct/../1", "../../evil")
    assert (store.accepted.folder / row.file).is_file()
    assert (store.accepted.folder / row.file).resolve().is_relative_to(store.accepted.folder)
    assert (row.case_id, row.rater) == ("ct/../1", "../../evil")


def test_how_the_case_came_is_remembered_and_its_serving_ends(store):
    serving = store.serve("case", client="client 1")
    store.now += 90
    turns = [{"kind": "inference", "champion": "c0ffee", "at": 1010.0, "asked": {"doubt": "off"}}]
    row = store.add("case", serving=serving, champion="c0ffee", client_id="client 1", interactions=turns)
    assert (row.strategy, row.arm, row.reason) == (
        "most_uncertain",
        "strategy",
        "members disagree about tumour",
    )
    assert (row.champion, row.client_id, row.took_s) == ("c0ffee", "client 1", 91.0)
    assert row.details["interactions"] == turns
    with store.database.reading() as c:
        assert open_servings(c) == []
        assert [s.outcome for s in servings(c)] == [SUBMITTED]
        (line,) = rows(c)
        assert verify(c) == []
    assert (line.actor, line.action, line.subject) == ("anna", "label accepted", "case")
    assert line.details["sha256"] == row.sha256
    assert store.rows() == [row]


def test_a_case_that_was_opened_by_hand_has_no_strategy(store):
    row = store.add("case")
    assert (row.strategy, row.arm, row.reason, row.took_s, row.serving_id) == ("", "", "", None, None)
    assert row.dice_to_proposal is None


def test_how_much_was_corrected_is_counted_per_class(store):
    # Proposed: 3 slices of organ. Accepted: 2 of them, and one slice of tumour. A slice has 20 voxels.
    accepted = block(1, 1, 3) + block(2, 5, 6)
    row = store.add("case", voxels=accepted, proposal=block(1, 1, 4))
    assert row.details["dice"] == {"organ": 0.8, "tumour": 0.0}
    assert row.dice_to_proposal == pytest.approx(0.4)
    assert row.details["voxels_changed"] == 40
    assert row.details["voxels_labelled"] == 120


def test_a_class_that_neither_holds_and_voxels_nobody_labelled_do_not_count(store):
    accepted = block(1, 1, 4)
    accepted[3:] = IGNORE
    row = store.add("case", voxels=accepted, proposal=block(1, 1, 6))
    assert row.details["dice"] == {"organ": 1.0}
    assert row.dice_to_proposal == 1.0
    assert row.details["voxels_changed"] == 0
    assert row.details["voxels_labelled"] == 60
    assert row.partial
    assert store.cases()["case"].partial
    nothing = store.add("empty", voxels=block(0), proposal=block(0))
    assert nothing.dice_to_proposal is None


def test_a_proposal_of_another_volume_is_not_compared(store):
    assert store.add("case", proposal=np.zeros((2, 2, 2), np.uint8)).dice_to_proposal is None
    assert store.add("case", proposal=block(9)).dice_to_proposal is None


def test_the_sidecar_tells_the_same_as_the_database(store):
    row = store.add("case", serving=store.serve("case"))
    told = json.loads((store.accepted.folder / "case" / "anna-1.json").read_text())
    assert told["sha256"] == row.sha256
    assert told["reason"] == "members disagree about tumour"
    assert told["took_s"] == row.took_s
    assert store.files() == {"case/anna-1.nii.gz", "case/anna-1.json"}


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.zeros((6, 5, 3), np.uint8), r"the label has shape \(6, 5, 3\), its grid \(6, 5, 4\)"),
        (np.zeros((6, 5, 4), np.float32), "the label holds float32, expected whole numbers"),
        (block(3), r"the label holds 3, expected 0\.\.2 or 255 \(not labelled\)"),
        (block(-1 & 0x7F), "the label holds 127"),
        (np.full((6, 5, 4), IGNORE), "nothing is labelled"),
    ],
)
def test_a_label_that_cannot_be_is_refused_and_leaves_nothing(store, voxels, words):
    with pytest.raises(BadInputError, match=words):
        store.add("case", voxels=voxels)
    assert store.rows() == []
    assert not store.accepted.folder.exists() or store.files() == set()


def test_a_label_without_a_rater_or_off_its_grid_is_refused(store):
    with pytest.raises(BadInputError, match="a label's rater is empty"):
        store.add("case", "")
    submission = Submission(case_id="case", patient="p", rater="anna", recipe=RECIPE, classes=CLASSES)
    with pytest.raises(BadInputError, match="the label has shape"):
        store.accepted.add(block(), Grid((2, 2, 2), np.eye(4)), submission, 1.0)


def test_an_error_of_the_database_takes_the_files_back(store):
    with store.database.writing() as c:
        AUDIT.drop(c)
    with pytest.raises(DBAPIError):
        store.add("case")
    assert store.rows() == []
    assert store.files() == set()
