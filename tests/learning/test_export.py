"""Accepted labels leave as a data set that nnU-Net's layout describes, each with where it came from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.imaging.dataset import check_dataset, read_dataset
from overread.imaging.volumes import read_array, read_labelmap
from overread.learning.accepted import Submission
from overread.learning.export import export_labels
from overread.learning.label_files import sha256_of
from support.labels import CLASSES, GRID, RECIPE, LabelStore, block

DESCRIPTION = {"classes": list(CLASSES), "channels": ["CT"], "plan": {}}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "studies")


def export(store: LabelStore, folder: Path, **options):
    return export_labels(folder, store.accepted, RECIPE, DESCRIPTION, store.image_of, **options)


def provenance(folder: Path) -> list[dict]:
    return json.loads((folder / "provenance.json").read_text())


def test_what_is_written_is_read_by_our_own_training(store: LabelStore, tmp_path: Path):
    store.add("one", proposal=block(1, 1, 3), champion="c0ffee")
    store.add("one", "ben", voxels=block(2))
    store.add_control("two", patient="p2")
    exported = export(store, tmp_path / "out")
    assert (exported.cases, exported.labels, exported.left_out) == (("one", "two"), 2, ())
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.classes, dataset.channels, dataset.announced) == (CLASSES, ("CT",), 2)
    assert dataset.patient_of("two") == "p2"
    assert check_dataset(dataset) == []
    label, grid = read_labelmap(tmp_path / "out" / "labelsTr" / "one.nii.gz")
    assert np.array_equal(label, block(2))
    assert grid.difference_from(GRID) is None
    image = tmp_path / "out" / "imagesTr" / "one_0000.nii.gz"
    assert image.read_bytes() == store.image_of("one").read_bytes()
    rows = {row.case_id: row for row in store.rows()}
    first, second = provenance(tmp_path / "out")
    assert (first["case"], first["rater"], first["revision"]) == ("one", "ben", 1)
    assert first["accepted_at"] == "1970-01-01T00:16:42+00:00"
    assert first["source_sha256"] == rows["one"].sha256
    assert first["label_sha256"] == sha256_of(tmp_path / "out" / "labelsTr" / "one.nii.gz")
    assert (second["arm"], second["protected"], second["patient"]) == ("control", True, "p2")
    with (tmp_path / "out" / "provenance.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["rater"] for row in table] == ["ben", "anna"]
    assert list(table[0]) == list(first)


def test_several_readers_become_one_label_and_all_are_named(store: LabelStore, tmp_path: Path):
    for rater, end in (("anna", 3), ("ben", 4), ("carla", 4)):
        store.add("one", rater, voxels=block(1, 1, end))
    before = store.files()
    assert export(store, tmp_path / "out", consensus="majority").labels == 3
    assert np.array_equal(read_labelmap(tmp_path / "out" / "labelsTr" / "one.nii.gz")[0], block(1, 1, 4))
    assert [entry["rater"] for entry in provenance(tmp_path / "out")] == ["anna", "ben", "carla"]
    assert store.files() == before
    assert not (tmp_path / "out" / ".consensus").exists()
    with pytest.raises(BadInputError, match="no consensus is called 'loudest'"):
        export(store, tmp_path / "other", consensus="loudest")


def test_what_nobody_labelled_is_nnunets_ignore(store: LabelStore, tmp_path: Path):
    partial = block()
    partial[5] = IGNORE
    store.add("part", voxels=partial)
    store.add("whole")
    export(store, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "organ": 1,
        "tumour": 2,
        "ignore": 3,
    }
    label, _ = read_labelmap(tmp_path / "out" / "labelsTr" / "part.nii.gz")
    assert np.array_equal(label == 3, partial == IGNORE)
    exported = export(store, tmp_path / "whole", whole_only=True)
    assert exported.cases == ("whole",)
    assert exported.left_out == ("part: its label says nothing about some voxels",)
    assert read_dataset(tmp_path / "whole").classes == CLASSES


def test_labels_that_do_not_count_or_turned_bad_are_left_out_and_told(store: LabelStore, tmp_path: Path):
    for case in ("good", "withdrawn", "changed", "gone", "other classes", "without image"):
        store.add(case, **({"classes": ("background", "liver")} if case == "other classes" else {}))
    store.accepted.withdraw("withdrawn", None, "ben", "wrong patient", store.now)
    (store.accepted.folder / "changed" / "anna-1.nii.gz").write_bytes(b"changed")
    (store.accepted.folder / "gone" / "anna-1.nii.gz").unlink()

    def image_of(case: str) -> Path | None:
        return None if case == "without image" else store.image_of(case)

    exported = export_labels(tmp_path / "out", store.accepted, RECIPE, DESCRIPTION, image_of)
    assert exported.cases == ("good",)
    assert set(exported.left_out) == {
        "withdrawn: its labels are withdrawn, flagged or quarantined",
        "changed: changed/anna-1.nii.gz is not what was accepted: its sha256 differs",
        "gone: gone/anna-1.nii.gz is gone",
        "other classes: other classes/anna-1.nii.gz speaks of the classes background, liver, "
        "the champion of background, organ, tumour",
        "without image: its image is not here",
    }


def test_where_nothing_can_be_exported_nothing_is_left(store: LabelStore, tmp_path: Path):
    with pytest.raises(BadInputError, match="there is no label of liver to export; none was accepted yet"):
        export(store, tmp_path / "out")
    store.add("one")
    store.image_of("one").write_bytes(b"no image any more")
    with pytest.raises(BadInputError, match=r"there is no label of liver to export: one: .* cannot be read"):
        export(store, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["studies"]


def test_pictures_stay_pictures(store: LabelStore, tmp_path: Path):
    colours = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(5, 6, 3)
    picture = tmp_path / "slide.tif"
    Image.fromarray(colours).save(picture)
    grid = Grid((6, 5), np.eye(4))
    label = np.zeros(grid.shape, np.uint8)
    label[1, 2] = 1
    origin = Submission(case_id="slide", patient="p", rater="anna", recipe=RECIPE, classes=CLASSES)
    store.accepted.add(label, grid, origin, 1.0)
    description = DESCRIPTION | {"channels": ["R", "G", "B"], "plan": {"um_per_px": 0.5}}
    export_labels(tmp_path / "out", store.accepted, RECIPE, description, {"slide": picture}.get)
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.um_per_px, check_dataset(dataset)) == (0.5, [])
    image = tmp_path / "out" / "imagesTr" / "slide_0000.png"
    assert np.array_equal(read_array(image)[0], read_array(picture)[0])
    assert np.array_equal(read_array(tmp_path / "out" / "labelsTr" / "slide.png")[0], label)
