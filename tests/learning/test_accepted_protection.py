"""Protected labels come from the control arm, by patient and for ever, and are never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.learning.accepted import AcceptedCase
from support.labels import CLASSES, LabelStore


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path)


def test_only_cases_drawn_at_random_are_protected(store):
    assert store.add_control("random").protected
    assert not store.add("doubt", serving=store.serve("doubt")).protected
    assert not store.add("by hand").protected
    found = store.cases()
    assert {case: found[case].protected for case in found} == {
        "by hand": False,
        "doubt": False,
        "random": True,
    }
    assert found["random"] == AcceptedCase(
        "random",
        "random",
        store.image_of("random"),
        store.accepted.folder / "random/anna-1.nii.gz",
        ("anna",),
        protected=True,
        arm="control",
        partial=False,
    )
    assert [found["doubt"].arm, found["by hand"].arm] == ["strategy", ""]


def test_a_patient_who_was_learnt_from_is_never_protected(store):
    store.add("first visit", patient="p1")
    assert not store.add_control("second visit", patient="p1").protected
    assert not store.cases()["second visit"].protected


def test_nothing_of_a_protected_patient_is_learnt_from_nor_judges_unless_drawn_at_random(store):
    store.add_control("first visit", patient="p1")
    row = store.add("second visit", patient="p1", serving=store.serve("second visit"))
    assert row.protected
    assert set(store.cases()) == {"first visit"}


def test_a_correction_by_somebody_else_judges_as_well(store):
    store.add_control("case")
    assert store.add("case", "ben").protected
    assert store.cases()["case"].raters == ("ben",)
    assert store.cases()["case"].protected


def test_a_label_that_was_withdrawn_decides_all_the_same(store):
    store.add("first visit", patient="p1")
    store.accepted.withdraw("first visit", "final", "anna", "wrong patient", store.now)
    assert not store.add_control("second visit", patient="p1").protected


def test_recipes_have_protected_patients_of_their_own(store):
    store.add("case", recipe="kidney", patient="p1")
    assert store.add_control("case", patient="p1").protected
    assert [case.protected for case in store.accepted.cases("kidney", store.image_of, classes=CLASSES)] == [
        False
    ]


def test_a_case_whose_image_is_gone_is_left_out(store):
    store.add("case")
    assert store.accepted.cases("liver", lambda case: None) == []
    assert store.accepted.check("liver", lambda case: None, CLASSES, store.now) == []
