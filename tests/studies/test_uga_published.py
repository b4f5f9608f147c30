"""Who has Camelyon, or any data set of several places, makes a set for the study of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.domain.slides import Region
from overread.imaging.dataset import BrokenDatasetError
from overread.studies.uga.published import camelyon, raw
from overread.studies.uga.sets import StudySet
from support.camelyon import BIG, HOLE, write_camelyon16, write_camelyon17
from support.datasets import write_balls, write_colour_discs, write_description, write_nifti_case


def silent(share: float) -> None:
    assert 0 <= share <= 1


def test_camelyon_is_the_first_centre_of_16_and_the_five_of_17(tmp_path: Path):
    tumour = write_camelyon16(tmp_path / "data" / "CAMELYON16") / "training" / "tumor"
    write_camelyon17(tmp_path / "data" / "CAMELYON17")
    (tumour / "tumor_001.tif").rename(tumour / "Tumor_001.tif")
    made = camelyon.make(tmp_path / "data", tmp_path / "set", silent)
    assert made.central == "RUMC"
    assert made.local_domains == ["centre_0", "centre_1", "centre_4"]
    assert {case.id: (case.domain, case.patient, case.kind) for case in made.cases} == {
        "normal_001": ("RUMC", "normal_001", "negative"),
        "tumor_001": ("RUMC", "tumor_001", "tumour"),
        "tumor_111": ("RUMC", "tumor_111", "tumour"),
        "patient_004_node_0": ("centre_0", "patient_004", "negative"),
        "patient_004_node_4": ("centre_0", "patient_004", "micro"),
        "patient_039_node_1": ("centre_1", "patient_039", "itc"),
        "patient_099_node_4": ("centre_4", "patient_099", "macro"),
    }
    made.save(tmp_path / "set")
    again = StudySet.load(tmp_path / "set")
    case = again.by_id["patient_004_node_4"]
    assert {each.image.stem for each in again.cases} == set(again.by_id)
    truth = again.truth(case, Region(0, 0, 200, 150), (200, 150))
    assert truth.sum() == BIG[2] * BIG[3] - HOLE[2] * HOLE[3]
    assert truth[BIG[1], BIG[0]] == 1
    assert truth[HOLE[1], HOLE[0]] == 0
    assert not again.truth(again.by_id["normal_001"], Region(0, 0, 200, 150), (200, 150)).any()
    with again.open(case) as slide:
        assert slide.id == case.id
        assert slide.pixel_size.um == pytest.approx(0.25)


def test_one_of_both_will_do(tmp_path: Path):
    write_camelyon16(tmp_path / "16")
    made = camelyon.make(tmp_path / "16", tmp_path / "set_16", silent)
    assert (made.central, made.local_domains) == ("RUMC", ["UMCU"])
    write_camelyon17(tmp_path / "17")
    made = camelyon.make(tmp_path / "17", tmp_path / "set_17", silent)
    # The most slides.
    assert (made.central, made.local_domains) == ("centre_0", ["centre_1", "centre_4"])


def test_what_is_wrong_with_camelyon_is_told_before_anything_is_made(tmp_path: Path):
    write_camelyon17(tmp_path / "17")
    for path in (tmp_path / "17").rglob("*.xml"):
        path.write_text("<ASAP")
    with pytest.raises(BrokenDatasetError, match="dataset Camelyon17 has 3 problems"):
        camelyon.make(tmp_path / "17", tmp_path / "set", silent)
    assert not (tmp_path / "set").exists()


def with_domains(folder: Path, names: list[str], **changes: object) -> Path:
    cases = sorted(path.name.split(".")[0] for path in (folder / "labelsTr").iterdir())
    rows = [
        f"{case},p{index // 2},{name}" for index, (case, name) in enumerate(zip(cases, names, strict=True))
    ]
    (folder / "patients.csv").write_text("\n".join(["case,patient,domain", *rows]) + "\n")
    described = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def test_volumes_in_nnunets_layout(tmp_path: Path):
    folder = with_domains(write_balls(tmp_path / "d", 4), ["east", "west", "west", "east"])
    made = raw.make(folder, tmp_path / "set", silent)
    assert (made.axes, made.classes, made.channels) == (3, ("background", "ball"), ("MR",))
    # As many cases each: the first by name.
    assert (made.central, made.local_domains) == ("east", ["west"])
    assert [case.patient for case in made.cases] == ["p0", "p0", "p1", "p1"]
    assert made.patch_px is None
    # Named like the case, not like its first channel.
    assert [case.image.name for case in made.cases] == [f"ball_{number:02d}.nii.gz" for number in range(4)]
    assert np.unique(made.volume_truth(made.cases[0])).tolist() == [0, 1]


def test_pictures_in_nnunets_layout(tmp_path: Path):
    folder = with_domains(write_colour_discs(tmp_path / "d", 3), ["west", "west", "central"], um_per_px=0.5)
    made = raw.make(folder, tmp_path / "set", silent)
    assert (made.axes, made.central, made.um_per_px, made.patch_px) == (2, "central", 0.5, 128)
    with made.open(made.cases[0]) as slide:
        assert slide.pixel_size.um == 0.5
        region = slide.bounds
    assert 0 < made.truth(made.cases[0], region, (region.width, region.height)).mean() < 1


def test_a_data_set_that_no_study_can_be_made_of_says_why(tmp_path: Path):
    plain = write_balls(tmp_path / "plain", 2)
    with pytest.raises(BadInputError, match="does not say where its cases were made"):
        raw.make(plain, tmp_path / "set", silent)
    pictures = with_domains(write_colour_discs(tmp_path / "discs", 2), ["a", "b"])
    with pytest.raises(BadInputError, match=r"dataset\.json has no um_per_px"):
        raw.make(pictures, tmp_path / "set", silent)
    pair = [np.ones((8, 8, 8), np.float32)] * 2
    for name in ("a", "b"):
        write_nifti_case(tmp_path / "pairs", name, pair, np.eye(8)[..., None].repeat(8, axis=2))
    write_description(tmp_path / "pairs", 2, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(BadInputError, match="has 2 channel files a case; a study reads one"):
        raw.make(with_domains(tmp_path / "pairs", ["a", "b"]), tmp_path / "set", silent)
