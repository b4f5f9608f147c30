"""The index follows the files: one listing of each folder tells what came and what went."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from monailabel.datastore.local import DataModel, ImageLabelModel

from overread.domain import BadInputError
from overread.server import patients as patients_module
from overread.server.index import reconciled
from overread.server.patients import Patients

SUFFIXES = (".nii.gz", ".nii", ".nrrd")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels" / "final").mkdir(parents=True)
    return tmp_path


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"")


def index_of(folder: Path, objects: dict[str, ImageLabelModel] | None = None) -> dict[str, ImageLabelModel]:
    return reconciled(objects or {}, folder, folder / "labels", SUFFIXES)


def test_new_images_and_labels_are_found_and_others_files_are_not(folder):
    put(folder, "a.nii.gz", "b.nrrd", "notes.txt", ".hidden.nii.gz", ".nii", "labels/final/a.nii.gz")
    put(folder, "labels/final/nobody.nii.gz")
    found = index_of(folder)
    assert {case: entry.image.ext for case, entry in found.items()} == {"a": ".nii.gz", "b": ".nrrd"}
    assert found["a"].labels["final"].ext == ".nii.gz"
    assert found["a"].image.info["name"] == "a.nii.gz"
    assert found["b"].labels == {}


def test_what_is_known_of_a_file_stays_as_long_as_the_file(folder):
    put(folder, "a.nii.gz", "b.nii.gz", "labels/final/a.nii.gz")
    label = DataModel(ext=".nii.gz", info={"rater": "anna"})
    before = {
        name: ImageLabelModel(
            image=DataModel(ext=".nii.gz", info={"age": 1}), labels={"final": label.model_copy()}
        )
        for name in ("a", "b", "c")
    }
    found = index_of(folder, before)
    assert set(found) == {"a", "b"}
    assert found["a"] == before["a"]
    assert found["b"].labels == {}
    # The caller's index is as it was.
    assert before["b"].labels == {"final": label}


def test_nothing_changes_where_nothing_came_or_went(folder):
    put(folder, "a.nii.gz")
    found = index_of(folder)
    assert index_of(folder, found) == found


def test_of_two_files_with_one_name_the_first_is_the_case(folder):
    put(folder, "a.nii", "a.nrrd")
    assert index_of(folder)["a"].image.ext == ".nii"


def test_patients_are_read_again_and_a_damaged_table_leaves_what_was_known(folder, monkeypatch, caplog):
    monkeypatch.setattr(patients_module, "LOOK_EVERY_S", -1)
    table = folder / "patients.csv"
    patient_of = Patients(folder)
    assert patient_of("a") == "a"
    table.write_text("case,patient\na,anna\n")
    os.utime(table, ns=(1, 1))
    assert patient_of("a") == "anna"
    table.write_text("who,knows\n")
    os.utime(table, ns=(2, 2))
    with caplog.at_level(logging.ERROR):
        assert patient_of("a") == "anna"
    assert "patients.csv" in caplog.text
    with pytest.raises(BadInputError, match="has no column case"):
        Patients(folder)
