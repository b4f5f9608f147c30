"""Reviewers, consensus and the disk decide which of a case's labels are learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, Grid, NotFoundError
from overread.domain.labels import IGNORE
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.state.audit import rows, verify
from overread.state.labels import ACCEPTED, APPROVED, FLAGGED, QUARANTINED, WITHDRAWN
from support.labels import CLASSES, GRID, RECIPE, LabelStore, block


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path)


def used(store: LabelStore, case: str = "case") -> str | None:
    """File of the label that training uses."""
    found = store.cases().get(case)
    return None if found is None else found.label.name


def review(store: LabelStore, status: str, tag: str = "final") -> str:
    return store.accepted.review("case", tag, status, "Dr. B", "see slice 3", store.now).status


def check(store: LabelStore) -> list[str]:
    return store.accepted.check(RECIPE, store.image_of, CLASSES, store.now)


# -- which counts


def test_the_newest_label_counts(store):
    store.add("case")
    store.add("case", "ben")
    assert used(store) == "ben-1.nii.gz"
    store.add("case")
    assert used(store) == "anna-2.nii.gz"


def test_an_approved_label_wins_over_newer_ones_until_the_verdict_is_taken_back(store):
    store.add("case")
    assert review(store, "approved") == APPROVED
    store.add("case")
    store.add("case", "ben")
    assert used(store) == "anna-1.nii.gz"
    assert review(store, "approved") == APPROVED
    assert used(store) == "ben-1.nii.gz"
    assert review(store, "segmented") == ACCEPTED
    assert used(store) == "anna-1.nii.gz"


def test_a_flagged_label_is_not_learnt_from_and_what_it_replaced_does_not_come_back(store):
    store.add("case")
    store.add("case")
    assert review(store, "flagged") == FLAGGED
    assert used(store) is None
    assert store.rows()[-1].status_reason == "flagged by Dr. B: see slice 3"
    assert review(store, "not segmented") == ACCEPTED
    assert used(store) == "anna-2.nii.gz"


def test_another_raters_label_counts_where_one_is_flagged(store):
    store.add("case", "ben")
    store.add("case")
    review(store, "flagged")
    assert used(store) == "ben-1.nii.gz"


def test_versions_of_a_reviewer_are_labels_of_their_own(store):
    store.add("case")
    store.add("case", "reviewer", block(2), tag="version_1")
    store.add("case", "reviewer", block(2, 0, 6), tag="version_2")
    assert used(store) == "reviewer-2.nii.gz"
    review(store, "flagged", "version_2")
    assert used(store) == "reviewer-1.nii.gz"
    review(store, "approved", "final")
    assert used(store) == "anna-1.nii.gz"


def test_a_withdrawn_label_is_gone_whoever_made_it_and_its_file_stays(store):
    store.add("case", "ben")
    store.add("case")
    store.add("case", tag="version_1")
    assert store.accepted.withdraw("case", "final", "admin", "wrong side", store.now) == 2
    assert used(store) == "anna-2.nii.gz"
    assert store.accepted.newest("case") is None
    assert store.accepted.withdraw("case", None, "admin", "image removed", store.now) == 1
    assert store.cases() == {}
    assert {row.status for row in store.rows()} == {WITHDRAWN}
    assert "case/ben-1.nii.gz" in store.files()
    with store.database.reading() as c:
        assert [line.action for line in rows(c)] == ["label accepted"] * 3 + ["label withdrawn"] * 3
        assert verify(c) == []


def test_verdicts_that_cannot_be_are_refused(store):
    with pytest.raises(NotFoundError, match="case 'case' has no accepted label with tag 'final'"):
        review(store, "approved")
    store.add("case")
    with pytest.raises(
        BadInputError, match="no review status is called 'perfect'; there are approved, flagged"
    ):
        review(store, "perfect")


# -- consensus


def test_raters_are_fused_when_asked(store):
    store.add("case", "anna", block(1, 1, 4))
    store.add("case", "ben", block(1, 1, 5))
    store.add("case", "cleo", block(1, 1, 3))
    case = store.cases("majority")["case"]
    assert case.raters == ("anna", "ben", "cleo")
    assert not case.partial
    voxels, grid = read_labelmap(case.label)
    np.testing.assert_array_equal(voxels, block(1, 1, 4))
    assert grid.difference_from(GRID) is None
    np.testing.assert_array_equal(read_labelmap(store.cases("staple")["case"].label)[0], block(1, 1, 4))
    assert store.cases("majority")["case"].label == case.label


def test_where_two_raters_differ_the_majority_leaves_it_open(store):
    store.add("case", "anna", block(1, 1, 4))
    store.add("case", "ben", block(1, 1, 5))
    for _ in range(2):
        case = store.cases("majority")["case"]
        assert case.partial
        expected = block(1, 1, 4)
        expected[4] = IGNORE
        np.testing.assert_array_equal(read_labelmap(case.label)[0], expected)


def test_each_rater_has_one_voice_with_the_newest_label(store):
    store.add("case", "ben", block(2))
    store.add("case", "anna", block(1))
    store.add("case", "ben", block(1))
    case = store.cases("majority")["case"]
    assert case.raters == ("anna", "ben")
    np.testing.assert_array_equal(read_labelmap(case.label)[0], block(1))


@pytest.mark.parametrize("consensus", ["latest", "majority", "staple"])
def test_one_raters_label_is_the_consensus(store, consensus):
    store.add("case")
    store.add("case", voxels=block(2))
    assert store.cases(consensus)["case"].label == store.accepted.folder / "case/anna-2.nii.gz"


def test_a_consensus_that_is_not_there_or_has_no_classes_is_refused(store):
    store.add("case")
    store.add("case", "ben")
    with pytest.raises(
        BadInputError, match="no consensus is called 'mean'; there are latest, majority, staple"
    ):
        store.cases("mean")
    with pytest.raises(BadInputError, match="consensus majority needs the names of the classes"):
        store.accepted.cases(RECIPE, store.image_of, "majority")


# -- the disk


def test_sound_labels_pass(store):
    store.add("case")
    partial = block()
    partial[5] = IGNORE
    store.add("part", voxels=partial)
    assert check(store) == []


def spoil(store: LabelStore, how: str) -> str:
    path = store.accepted.folder / store.add("bad").file
    if how == "gone":
        path.unlink()
    elif how == "changed":
        write_nifti(path, block(2), GRID)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:40])
    return path.name


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("gone", "bad/anna-1.nii.gz is gone"),
        ("changed", "bad/anna-1.nii.gz is not what was accepted: its sha256 differs"),
        ("cut", "its sha256 differs"),
    ],
)
def test_a_label_that_turned_bad_is_named_and_left_out_and_the_others_go_on(store, how, words):
    store.add("good")
    spoil(store, how)
    (sentence,) = check(store)
    assert sentence.startswith("label of bad by anna (revision 1) is quarantined: ")
    assert words in sentence
    assert str(store.folder) not in sentence
    assert set(store.cases()) == {"good"}
    assert [row.status for row in store.rows()] == [ACCEPTED, QUARANTINED]
    assert words in store.rows()[1].status_reason
    with store.database.reading() as c:
        assert list(rows(c))[-1].action == "label quarantined"
    assert check(store) == []
    with pytest.raises(BadInputError, match="the label of case 'bad' with tag 'final' is quarantined"):
        store.accepted.review("bad", "final", "approved", "Dr. B", "", store.now)


def test_a_bad_revision_gives_way_to_the_one_before(store):
    store.add("bad", voxels=block(2))
    path = store.accepted.folder / store.add("bad").file
    path.unlink()
    check(store)
    assert used(store, "bad") == "anna-1.nii.gz"


def test_a_label_off_its_images_grid_or_with_unknown_classes_is_quarantined(store):
    store.add("case", voxels=block(2))
    store.add("moved")
    write_nifti(
        store.folder / "moved.nii.gz", np.zeros(GRID.shape), Grid(GRID.shape, np.diag([1.0, 1, 2, 1]))
    )
    store.add("resized")
    write_nifti(store.folder / "resized.nii.gz", np.zeros((6, 5, 9)), Grid((6, 5, 9), GRID.affine))
    sentences = store.accepted.check(RECIPE, store.image_of, CLASSES[:2], store.now)
    assert "case/anna-1.nii.gz holds 2, expected 0..1 or 255" in sentences[0]
    assert "another grid than the image: a position that differs by 10 mm" in sentences[1]
    assert "shape (6, 5, 4) instead of (6, 5, 9)" in sentences[2]


def test_an_image_that_cannot_be_read_is_not_the_labels_fault(store):
    store.add("case")
    (store.folder / "case.nii.gz").write_bytes(b"junk")
    assert check(store) == []


def test_a_label_of_a_picture_is_compared_by_its_shape(store):
    from PIL import Image

    from overread.learning.accepted import Submission

    picture = store.folder / "picture.png"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(picture)
    voxels = np.ones((6, 5), np.uint8)
    submission = Submission(case_id="picture", patient="p", rater="anna", recipe=RECIPE, classes=CLASSES)
    store.accepted.add(voxels, Grid((6, 5), np.eye(4)), submission, store.now)
    assert store.accepted.check(RECIPE, lambda case: picture, CLASSES, store.now) == []
