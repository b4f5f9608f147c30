"""Dividing, presets and looks of the study of UGA, with answers known by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from overread.cli.study import _numbers
from overread.domain import BadInputError, NotFoundError
from overread.ensemble.ensemble import Ensemble, Prepared
from overread.imaging.volumes import Volume
from overread.queue.patches.candidates import patch_table
from overread.studies.uga.looking import look_at
from overread.studies.uga.protocol import ARMS, PRESETS, changed_protocol, checked_arms
from overread.studies.uga.rounds import with_peaks
from overread.studies.uga.sets import StudyCase, StudySet
from overread.studies.uga.sources import ORIGIN, SOURCES, prepare_set
from overread.studies.uga.splits import Division, divide
from support.slide_maps import blank, some_maps


def set_of(*cases: tuple[str, str, str, str], central: str = "a") -> StudySet:
    """Cases by id, domain, patient and kind."""
    made = tuple(StudyCase(i, Path(f"{i}.nii.gz"), Path(f"{i}_l.nii.gz"), d, p, k) for i, d, p, k in cases)
    return StudySet("toy", 3, ("background", "x"), ("MR",), central, made)


def plain(count_a: int, count_b: int) -> StudySet:
    of = (("a", count_a), ("b", count_b))
    names = [(f"{domain}{n}", domain, f"{domain}{n}", "") for domain, count in of for n in range(count)]
    return set_of(*names)


def test_a_third_of_the_central_and_half_of_the_local_cases_judge():
    division = divide(plain(12, 8), seed=0, most=99)
    assert len(division.train) == 8
    assert {name: len(ids) for name, ids in division.test.items()} == {"a": 4, "b": 4}
    assert {name: len(ids) for name, ids in division.pool.items()} == {"b": 4}
    assert divide(plain(12, 8), seed=0, most=99) == division
    assert divide(plain(12, 8), seed=1, most=99) != division
    assert Division.from_json(division.to_json()) == division


def test_no_patient_teaches_at_one_place_and_judges_at_another():
    cases = [(f"{domain}{n}", domain, f"p{n}", "") for domain in "ab" for n in range(6)]
    for seed in range(8):
        division = divide(set_of(*cases), seed, 99)
        teach = {name[1:] for name in (*division.train, *division.pool["b"])}
        judge = {name[1:] for ids in division.test.values() for name in ids}
        assert not teach & judge


def test_each_kind_is_on_both_sides():
    cases = [(f"a{n}", "a", f"a{n}", "") for n in range(6)]
    cases += [(f"b{n}", "b", f"b{n}", "negative" if n < 2 else "tumour") for n in range(8)]
    for seed in range(8):
        division = divide(set_of(*cases), seed, 99)
        negative = {"b0", "b1"}
        assert len(negative & {*division.pool["b"]}) == 1
        assert len(negative & {*division.test["b"]}) == 1


def test_a_domain_of_one_patient_cannot_be_divided():
    with pytest.raises(BadInputError, match="domain b of toy has no case to judge by"):
        divide(plain(6, 1), 0, 99)


def test_groups_are_no_larger_than_asked_for():
    division = divide(plain(30, 30), 0, 5)
    assert len(division.train) == len(division.pool["b"]) == len(division.test["a"]) == 5


def test_sets_that_cannot_be_studied_are_refused():
    with pytest.raises(BadInputError, match="no case of the central domain 'c'"):
        set_of(("a0", "a", "p", ""), central="c")
    with pytest.raises(BadInputError, match="the domain a alone"):
        set_of(("a0", "a", "p", ""))
    with pytest.raises(BadInputError, match="toy has 2 axes"):
        replace(plain(2, 2), axes=2)


def test_changes_of_a_protocol():
    changed = changed_protocol("small", ["replay_share=0.7", "budgets=5,10,20", "gated=no", "begin=scratch"])
    assert (changed.replay_share, changed.budgets, changed.gated) == (0.7, (5, 10, 20), False)
    assert changed.key() != PRESETS["small"].key()
    assert changed_protocol("paper", []) == PRESETS["paper"]
    # What was done before there was the choice is found by a study that does not make it.
    assert changed_protocol("small", ["obeyed=no"]).key() == PRESETS["small"].key() == "44021726"
    assert changed_protocol("small", ["obeyed=yes"]).key() != PRESETS["small"].key()
    for change in ("peaks=8", "share=100"):
        assert changed_protocol("small", [change]).key() != PRESETS["small"].key()
    assert changed_protocol("small", ["peaks=1", "share=2"]).key() == PRESETS["small"].key()
    kinds = {changed_protocol("small", [f"normalised={kind}"]).key() for kind in ("slide", "place")}
    assert len(kinds - {PRESETS["small"].key()}) == 2


@pytest.mark.parametrize(
    ("preset", "change", "words"),
    [
        ("huge", "", "no preset 'huge'"),
        ("small", "lr=1", "no 'lr' to change"),
        ("small", "scales=1", "no 'scales' to change"),
        ("small", "iterations=many", "iterations cannot be 'many'"),
        ("small", "normalised=stain", "normalised is 'stain', expected slide or place"),
        ("small", "gated=1", "say yes or no"),
        ("small", "gated=no obeyed=yes", "without a gate there is nothing to obey"),
        ("small", "beside=yes", "without statistics of a place"),
        ("small", "budgets=10,5", "budgets are patches in all and rise"),
        ("small", "members=0", "members is 0"),
        ("small", "replay_share=2", "replay_share is 2"),
        ("small", "restained=2", "restained is 2"),
        ("small", "lent=-1", "lent is -1"),
        ("small", "peaks=0", "peaks is 0.0, expected an exponent above 0"),
        ("small", "share=0.5", "a share is at least 1 times an equal one"),
        ("small", "begin=middle", "start 'middle' is not known"),
    ],
)
def test_changes_that_mean_nothing_are_refused(preset: str, change: str, words: str):
    with pytest.raises(BadInputError, match=words):
        changed_protocol(preset, change.split())


def test_with_peaks_a_sharp_doubt_comes_before_a_wide_one_and_without_after_it():
    field = blank(8, 16) + 0.01
    # A patch of 0.2 nat all over, and one with a spot of 0.6.
    field[:, :8] = 0.2
    field[2:4, 10:12] = 0.6
    maps = some_maps(field)

    def first(exponent: float) -> int:
        table = patch_table("a", with_peaks(maps, exponent), (64, 64))
        return table.region(int(np.argmax(table.doubt))).x

    assert with_peaks(maps, 1.0) is maps
    assert first(1.0) == 0
    # A quarter of a patch apart: where the whole spot lies in the patch.
    assert first(8.0) >= 32
    table = patch_table("a", with_peaks(maps, 2.0), (64, 64))
    assert table.doubt[table.columns == 0][0] == pytest.approx(0.04, rel=1e-2)
    assert (
        table.class_doubt[table.columns == 0][0].sum() < patch_table("a", maps, (64, 64)).class_doubt[0].sum()
    )


def test_volumes_have_no_stain_and_the_first_model_is_always_there():
    assert checked_arms(("uga", "hed", "adabn"), 3) == ("none", "uga")
    assert checked_arms(ARMS, 2) == ARMS
    with pytest.raises(BadInputError, match="no arm 'dice'"):
        checked_arms(("dice",), 2)


def test_seeds_as_they_are_typed():
    assert _numbers("0-2, 7") == (0, 1, 2, 7)


def test_sets_say_what_is_missing(tmp_path: Path):
    with pytest.raises(BadInputError, match="give --data DIR"):
        prepare_set("dsb2018", None, tmp_path)
    with pytest.raises(NotFoundError, match=r"index\.csv is not there"):
        prepare_set("dsb2018", tmp_path, tmp_path / "set")
    with pytest.raises(NotFoundError, match="no set for the study"):
        prepare_set("mnist", tmp_path, tmp_path)
    assert {"dsb2018", "monuseg", "slides", "hippocampus", "lidc"} <= {*SOURCES}


def test_a_set_made_from_files_that_changed_is_refused(tmp_path: Path):
    data, folder = tmp_path / "data", tmp_path / "data" / "work" / "set"
    for part in ("images", "masks"):
        (data / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(data / "images" / f"{name}.png")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(data / "masks" / f"{name}.png")
    (data / "index.csv").write_text("id,domain\na,violet\nb,grey\n")
    apart = (data / "work",)
    made = prepare_set("dsb2018", data, folder, apart=apart)
    (data / "work" / "report.html").write_text("of the study")
    (data / ".DS_Store").write_text("of a desktop")
    assert prepare_set("dsb2018", data, folder, apart=apart) == made
    picture = data / "images" / "a.png"
    before = picture.stat()
    Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(picture)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    (data / "masks" / "b.png").unlink()
    (data / "images" / "c.png").write_bytes(b"")
    words = (
        rf"{folder} was made from {data}, whose files are not the same any more \(changed: images/a\.png; "
        r"gone: masks/b\.png; new: images/c\.png\); give another --work"
    )
    with pytest.raises(BadInputError, match=words):
        prepare_set("dsb2018", data, folder, apart=apart)
    # Without data it is told; and so is what was made before files were kept.
    assert prepare_set("dsb2018", None, folder) == made
    marker = folder / ORIGIN
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "files"}))
    assert prepare_set("dsb2018", data, folder, apart=apart) == made
    with pytest.raises(
        BadInputError, match=f"{folder} was made from {data}; give another --work for {tmp_path}"
    ):
        prepare_set("dsb2018", tmp_path, folder)


class Says:
    """A member that says class 1 with this probability where the image is bright."""

    def __init__(self, probability: float) -> None:
        self.logit = float(np.log(probability / (1 - probability)))

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        said = torch.where(windows[:, :1] > 0.5, self.logit, -20.0)
        return torch.cat([torch.zeros_like(said), said], dim=1)


def test_a_volume_is_one_patch_of_its_slices_side_by_side(tmp_path: Path):
    voxels = np.zeros((4, 5, 3), np.float32)
    voxels[1, 2, 2] = voxels[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "a0.nii.gz")

    def prepare(volume: Volume) -> Prepared:
        shape = volume.grid.shape
        return Prepared(
            torch.from_numpy(volume.voxels),
            volume.grid,
            (0, 1, 2),
            (False,) * 3,
            tuple((0, n) for n in shape),
            ("linear",) * 3,
        )

    ensemble = Ensemble("toy", ("background", "x"), ("MR",), [Says(0.9), Says(0.3)], (4, 5, 3), prepare)
    case = StudyCase("a0", tmp_path / "a0.nii.gz", tmp_path / "none", "a", "a0")
    look = look_at(ensemble, plain(2, 2), case, "cpu", 1.0)
    # The mean of 0.9 and 0.3.
    assert np.argwhere(look.labels).tolist() == [[0, 0, 0], [1, 2, 2]]
    maps = look.maps
    assert maps.shape == (4, 15)
    assert maps.cell.um == pytest.approx(2000)
    # Row i, column k * 5 + j.
    assert np.argwhere(maps.probability[1] > 0.5).tolist() == [[0, 0], [1, 12]]
    assert maps.probability[1, 1, 12] == pytest.approx(0.6, abs=1e-3)
    assert maps.maps["predictive_entropy"][1, 12] == pytest.approx(
        -0.6 * np.log(0.6) - 0.4 * np.log(0.4), abs=1e-3
    )
    # The first member draws both voxels, the second none.
    assert maps.sizes[:, 0].sum(axis=(1, 2)).tolist() == [2, 0]
    assert maps.overlaps.sum() == 0
