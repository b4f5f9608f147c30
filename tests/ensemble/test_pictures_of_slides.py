"""Data sets of pictures that were cut from slides: background alone is worth learning from, 255 says nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overread.domain import BadInputError
from overread.ensemble.calibrate import calibrate
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.plan import Plan
from overread.ensemble.storage import read_description
from overread.ensemble.training import hold_out, train_ensemble
from overread.imaging.dataset import check_dataset, read_dataset
from support.pictures import EXACT, TINY, without_pixel_size, write_tissue

SHORT = replace(EXACT, iterations=2)


def test_cases_without_foreground_and_voxels_without_label_are_sound_where_a_pixel_size_is_said(
    tmp_path: Path,
) -> None:
    folder = write_tissue(tmp_path, 2, empty=1, ignored=1)
    assert check_dataset(read_dataset(folder)) == []
    plain = read_dataset(without_pixel_size(folder))
    assert {problem.case for problem in check_dataset(plain)} == {"tissue_00", "tissue_02"}


def test_intensities_are_those_of_labelled_foreground(tmp_path: Path) -> None:
    write_tissue(tmp_path, 4, empty=2, ignored=2)
    fingerprint = take_fingerprint(read_dataset(tmp_path), np.random.default_rng(0))
    assert len(fingerprint.shapes) == 6
    assert fingerprint.um_per_px == 1.0
    # The blobs are blue (70 of green); unlabelled voxels are mostly pink (170).
    assert fingerprint.intensities[1].mean == pytest.approx(70, abs=3)


def test_a_data_set_without_any_foreground_is_refused(tmp_path: Path) -> None:
    write_tissue(tmp_path, 0, empty=2)
    with pytest.raises(BadInputError, match=r"no case of .* holds foreground: there is nothing to learn"):
        take_fingerprint(read_dataset(tmp_path), np.random.default_rng(0))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_ensemble_keeps_what_shaped_it(tmp_path: Path, norm: str) -> None:
    dataset = read_dataset(write_tissue(tmp_path / "data", 4, empty=2, ignored=1))
    folder = train_ensemble("tissue", dataset, tmp_path / "work", SHORT, {**TINY, "norm": norm})
    plan = Plan.from_json(read_description(folder)["plan"])
    assert (plan.um_per_px, plan.norm, plan.stain, plan.mirror_axes) == (1.0, norm, 0.05, (0, 1))
    weights = torch.load(folder / "member_0.pt", weights_only=True)
    assert any(name.endswith("running_mean") for name in weights) == (norm == "batch")
    assert calibrate(folder, dataset) is not None


def test_held_out_pictures_without_foreground_can_calibrate(tmp_path: Path) -> None:
    dataset = read_dataset(write_tissue(tmp_path / "data", 4, empty=1))
    patients = {case.id: "seen" for case in dataset.cases[:-1]}
    grouped = replace(dataset, patients=patients)
    seeds = (replace(SHORT, seed=seed, members=1) for seed in range(20))
    options = next(options for options in seeds if hold_out(grouped, options) == [["tissue_04"]])
    trained = train_ensemble("tissue", grouped, tmp_path / "work", options, TINY)
    calibration = calibrate(trained, grouped)
    assert calibration is not None
    assert 0.05 <= calibration.temperature <= 20


def test_a_label_that_fits_no_picture_is_named(tmp_path: Path) -> None:
    write_tissue(tmp_path, 2)
    label = np.asarray(Image.open(tmp_path / "labelsTr" / "tissue_00.png"))
    Image.fromarray(label.T.copy()).save(tmp_path / "labelsTr" / "tissue_00.png")
    (problem,) = check_dataset(read_dataset(tmp_path))
    assert problem.what == "lies on another grid than its image: shape (24, 40) instead of (40, 24)"
