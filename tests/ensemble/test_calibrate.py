"""Calibration counts on held-out cases, by members that did not learn from them, and says what it found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid
from overread.ensemble.calibrate import DIAGRAM, calibrate
from overread.ensemble.ensemble import Ensemble, Prepared
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.dataset import Dataset, read_dataset
from overread.imaging.volumes import Volume, read_labelmap, read_volume, write_nifti
from overread.uncertainty.calibration import band_map

SHAPE = (20, 18, 16)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Three cases of a bright ball, its true edge where the noiseless image is 60."""
    folder = tmp_path / "Dataset001_Ball"
    rng = np.random.default_rng(0)
    radius = np.sqrt(
        sum(
            (np.arange(n).reshape([-1 if a == i else 1 for a in range(3)]) - n / 2) ** 2
            for i, n in enumerate(SHAPE)
        )
    )
    for index in range(3):
        clean = 100 - 10 * radius + 5 * index
        noisy = clean + rng.normal(scale=8, size=SHAPE)
        write_nifti(
            folder / "imagesTr" / f"ball{index}_0000.nii.gz", noisy.astype(np.float32), Grid(SHAPE, np.eye(4))
        )
        write_nifti(
            folder / "labelsTr" / f"ball{index}.nii.gz", (clean > 60).astype(np.uint8), Grid(SHAPE, np.eye(4))
        )
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, "ball": 1},
                "numTraining": 3,
                "file_ending": ".nii.gz",
            }
        )
    )
    return read_dataset(folder)


def an_ensemble(folder, held_out, *, offsets=(-3, 0, 3), sharpness=1.0):
    write_threshold_ensemble(
        folder, "balls", ["background", "ball"], [60], offsets, sharpness=sharpness, patch=(16, 16, 16)
    )
    description = read_description(folder)
    write_description(folder, {**description, "plan": {**description["plan"], "held_out": held_out}})
    return folder


def turned_and_cut(ensemble: Ensemble) -> Ensemble:
    """Members that look at a part of the image only, the first axis the other way round."""

    def prepare(volume: Volume) -> Prepared:
        prepared = ensemble.prepare(volume)
        crop = ((0, 20), (2, 9), (4, 16))
        voxels = prepared.voxels.flip(1)[(slice(None), *(slice(*edge) for edge in crop))]
        return replace(prepared, voxels=voxels, flips=(True, False, False), crop=crop)

    return replace(ensemble, prepare=prepare)


@pytest.mark.parametrize("seen", [lambda ensemble: ensemble, turned_and_cut])
@pytest.mark.parametrize("measure", ["predictive_entropy", "mutual_information"])
def test_shares_of_the_bands_are_those_that_a_prediction_has(dataset, tmp_path, monkeypatch, seen, measure):
    monkeypatch.setattr(
        "overread.ensemble.calibrate.load_ensemble", lambda *where: seen(load_ensemble(*where))
    )
    folder = an_ensemble(tmp_path / "e", [["ball0", "ball2"]] * 3)
    calibration = calibrate(folder, dataset)
    assert calibration is not None
    ensemble = seen(load_ensemble(folder))
    assert ensemble.calibration == calibration

    wrong_in_high, wrong_all, high_all, voxels = 0, 0, 0, 0
    for case in (dataset.cases[0], dataset.cases[2]):
        prediction = predict(ensemble, read_volume(case.channels), measures=[measure])
        high = band_map(prediction.maps[measure].values, calibration.bands[measure]) == 2
        wrong = prediction.labels != read_labelmap(case.label)[0]
        wrong_in_high += (high & wrong).sum()
        wrong_all += wrong.sum()
        high_all += high.sum()
        voxels += high.size
    bands = calibration.bands[measure]
    assert wrong_in_high > 0
    assert bands.cases == 2
    assert bands.high_error_share == pytest.approx(wrong_in_high / wrong_all)
    assert bands.high_voxel_share == pytest.approx(high_all / voxels)


def test_each_case_is_asked_about_once(dataset, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "overread.ensemble.calibrate.predict",
        lambda ensemble, volume, **more: asked.append(volume) or predict(ensemble, volume, **more),
    )
    assert calibrate(an_ensemble(tmp_path / "e", [["ball0", "ball2"]] * 3), dataset) is not None
    assert len(asked) == 2


def test_of_many_logits_some_voxels_stand_for_all(dataset, tmp_path, monkeypatch):
    def bands(name):
        found = calibrate(an_ensemble(tmp_path / name, [["ball0", "ball1", "ball2"]] * 3), dataset)
        assert found is not None
        return found.bands["predictive_entropy"]

    whole = bands("whole")
    # A third of the voxels of each case, by three members and two classes.
    monkeypatch.setattr("overread.ensemble.calibrate.BAND_LOGITS_PER_CASE", 2 * np.prod(SHAPE))
    some = bands("some")
    assert some.cases == whole.cases
    assert some.high != whole.high
    assert some.high == pytest.approx(whole.high, rel=0.1)
    assert some.high_error_share == pytest.approx(whole.high_error_share, abs=0.1)


def test_members_that_are_too_sure_are_cooled_down(dataset, tmp_path):
    """Logits of 2 * 3 * distance in grey values, noise of 8: far too steep, so the temperature is well above 1."""
    folder = an_ensemble(tmp_path / "e", [["ball0", "ball1"]] * 3, sharpness=3.0)
    calibration = calibrate(folder, dataset)
    assert calibration is not None
    assert calibration.temperature > 3
    assert calibration.ece_before is not None
    assert calibration.ece_after is not None
    assert calibration.ece_after < calibration.ece_before / 2


def test_a_reliability_diagram_lies_beside_the_members(dataset, tmp_path):
    folder = an_ensemble(tmp_path / "e", [["ball0"]] * 3)
    calibrate(folder, dataset)
    with Image.open(folder / DIAGRAM) as picture:
        assert min(picture.size) >= 300


def test_in_cross_validation_each_case_is_judged_by_the_member_that_did_not_see_it(dataset, tmp_path):
    """Member 1 calls everything background; it is asked about ball1 only, so no other case has its errors."""
    folder = an_ensemble(tmp_path / "folds", [["ball0"], ["ball1"]], offsets=(0, 1000))
    folds = calibrate(folder, dataset)
    alone = calibrate(an_ensemble(tmp_path / "one", [["ball0"]], offsets=(0,)), dataset)
    assert folds is not None
    assert alone is not None
    # With one member asked at a time members cannot disagree, and nobody knows what bands would hold, ...
    assert {"mutual_information", "variance", "variation_ratio"}.isdisjoint(folds.bands)
    # ... and the sure errors of member 1 are counted: they are not where doubt is.
    assert folds.bands["predictive_entropy"].cases == 2
    assert (
        folds.bands["predictive_entropy"].high_error_share
        < alone.bands["predictive_entropy"].high_error_share
    )


def test_after_a_retraining_one_member_speaks_about_a_case_and_all_answer(dataset, tmp_path):
    """Of the cases one is kept from all members, as central ones are, and each other one from one of them."""
    offsets = (-6, 0, 6)

    def calibrated(name, held_out):
        found = calibrate(an_ensemble(tmp_path / name, held_out, offsets=offsets), dataset)
        assert found is not None
        return found

    together = calibrated("together", [["ball0", "ball1", "ball2"]] * 3)
    alone = calibrated("alone", [["ball2"], ["ball1"], ["ball0"]])
    mixed = calibrated("mixed", [["ball0", "ball1"], ["ball0"], ["ball0", "ball2"]])
    # A member that is off is surely wrong where three together waver.
    assert alone.temperature > 1.2 * together.temperature
    assert mixed.temperature == pytest.approx(together.temperature, rel=0.05)
    # Bands of disagreement hold in an answer of all members what they hold where all were asked.
    bands = mixed.bands["mutual_information"]
    assert bands.cases == 1
    assert mixed.bands["predictive_entropy"].cases == 3
    volume = read_volume(dataset.cases[0].channels)
    prediction = predict(load_ensemble(tmp_path / "mixed"), volume, measures=["mutual_information"])
    shown = band_map(prediction.maps["mutual_information"].values, bands) == 2
    assert 0 < shown.mean() == pytest.approx(bands.high_voxel_share)


def test_without_held_out_cases_nothing_changes(dataset, tmp_path):
    folder = an_ensemble(tmp_path / "e", [])
    before = (folder / "ensemble.json").read_bytes()
    assert calibrate(folder, dataset) is None
    assert (folder / "ensemble.json").read_bytes() == before


def test_progress_rises_to_one(dataset, tmp_path):
    shares = []
    calibrate(an_ensemble(tmp_path / "e", [["ball0", "ball1"]] * 3), dataset, progress=shares.append)
    assert shares == [0.5, 1.0]


def test_a_held_out_case_that_is_not_there_is_named(dataset, tmp_path):
    folder = an_ensemble(tmp_path / "e", [["ball7"]] * 3)
    with pytest.raises(BadInputError, match="held-out case ball7 is not in"):
        calibrate(folder, dataset)
