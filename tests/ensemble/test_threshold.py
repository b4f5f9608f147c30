"""The threshold champion answers what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError, Grid
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.volumes import Volume

CLASSES = ("background", "organ", "tumour")


def line(*intensities: float) -> Volume:
    voxels = np.array(intensities, dtype=np.float32).reshape(1, -1, 1, 1)
    return Volume(voxels, Grid(voxels.shape[1:], np.eye(4)))


def test_each_class_begins_at_its_cut(tmp_path):
    write_threshold_ensemble(tmp_path, "lines", CLASSES, cuts=[10, 20], patch=(8, 8, 8))
    prediction = predict(load_ensemble(tmp_path), line(-50, 9, 11, 19, 21, 500))
    assert prediction.labels.ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_doubt_is_where_the_members_cuts_differ(tmp_path):
    write_threshold_ensemble(tmp_path, "lines", CLASSES, [100, 200], [0, 20], patch=(8, 8, 8))
    ensemble = load_ensemble(tmp_path)
    assert len(ensemble.members) == 2
    doubt = predict(ensemble, line(50, 110, 150)).maps["predictive_entropy"].values.ravel()
    np.testing.assert_allclose(doubt, [0, np.log(2), 0], atol=1e-4)


def test_pictures_work_as_volumes_do(tmp_path):
    write_threshold_ensemble(tmp_path, "flat", CLASSES[:2], [0.5], patch=(4, 4))
    picture = Volume(np.eye(6, dtype=np.float32)[None], Grid((6, 6), np.eye(4)))
    np.testing.assert_array_equal(predict(load_ensemble(tmp_path), picture).labels, np.eye(6))


def test_the_same_plan_has_the_same_identity(tmp_path):
    first = write_threshold_ensemble(tmp_path / "a", "x", CLASSES, [1, 2])
    assert write_threshold_ensemble(tmp_path / "b", "x", CLASSES, [1, 2]) == first
    assert write_threshold_ensemble(tmp_path / "c", "x", CLASSES, [1, 3]) != first


def test_plans_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"3 classes need 2 rising cuts, got \[5.0\]"):
        write_threshold_ensemble(tmp_path, "x", CLASSES, [5])
    with pytest.raises(BadInputError, match="rising cuts"):
        write_threshold_ensemble(tmp_path, "x", CLASSES, [5, 4])
    with pytest.raises(BadInputError, match="has no offsets"):
        write_threshold_ensemble(tmp_path, "x", CLASSES, [4, 5], [])


def test_an_image_with_other_axes_is_refused(tmp_path):
    write_threshold_ensemble(tmp_path, "flat", CLASSES[:2], [0.5], patch=(4, 4))
    with pytest.raises(BadInputError, match=r"flat looks at 2-D windows, the image is 3-D \(2, 1, 1\)"):
        predict(load_ensemble(tmp_path), line(1, 2))
