"""What the members see does not depend on how a file stores its voxels, and the way back lands where it came from."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Grid
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.plan import Normalisation, Plan
from overread.ensemble.prediction import predict
from overread.ensemble.preparation import normalise, prepare, prepare_labels, resample_image
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import Volume
from support.datasets import write_balls, write_nifti_case

PLAN = Plan(
    spacing_mm=(1.0, 1.0, 1.0),
    patch=(16, 16, 16),
    batch=2,
    kernels=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    features=(4, 8, 16),
    normalisation=(Normalisation("rgb"),),
    mirror_axes=(0,),
    classes=2,
)
# As stored: along R, A, S; flipped; permuted; permuted and flipped.
ORIENTATIONS = ["RAS", "LPS", "SAR", "PIL"]


def stored_as(codes: str, voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, Grid]:
    """The same anatomy in another order of voxels."""
    image = nib.Nifti1Image(voxels, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), Grid(turned.shape, np.asarray(turned.affine))


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    """An affine that is turned by 20 degrees about S and 10 about R."""
    a, b = np.deg2rad(20), np.deg2rad(10)
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_r = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_s @ about_r @ np.diag(spacing)
    affine[:3, 3] = (-30, 12, 5)
    return affine


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_members_see_the_same_whatever_the_order_of_voxels(codes: str) -> None:
    voxels = np.random.default_rng(0).uniform(1, 255, (6, 8, 10)).astype(np.float32)
    turned, grid = stored_as(codes, voxels, oblique((1.0, 1.0, 1.0)))
    prepared = prepare(PLAN, Volume(turned[None], grid))
    assert torch.equal(prepared.voxels[0], torch.from_numpy(voxels) / 255)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 1.6), (0.8, 0.8, 4.0)])
def test_the_way_back_lands_on_the_voxels_of_the_input(
    codes: str, spacing: tuple[float, float, float]
) -> None:
    truth = np.zeros((30, 24, 16), np.float32)
    truth[6:15, 8:20, 3:9] = 1
    truth[20:26, 4:9, 9:13] = 1
    # Empty borders, so that a crop has to be undone as well.
    seen = 50 * np.pad(np.ones((26, 20, 14), np.float32), ((1, 3), (2, 2), (1, 1))) + 150 * truth
    stored, grid = stored_as(codes, seen, oblique(spacing))
    expected, _ = stored_as(codes, truth, oblique(spacing))

    def bright(windows: torch.Tensor) -> torch.Tensor:
        steep = 40 * (windows - 125 / 255)
        return torch.cat([-steep, steep], dim=1)

    ensemble = Ensemble("bright", ("dark", "bright"), ("MR",), [bright], PLAN.patch, partial(prepare, PLAN))
    labels = predict(ensemble, Volume(stored[None], grid)).labels
    assert labels.shape == expected.shape
    overlap = 2 * (labels * expected).sum() / (labels.sum() + expected.sum())
    assert overlap == 1 if spacing == (1.0, 1.0, 1.0) else overlap > 0.93


def test_labels_go_the_way_of_their_image() -> None:
    truth = np.zeros((20, 18, 12), np.uint8)
    truth[4:12, 6:14, 3:9] = 1
    stored, grid = stored_as("PIL", truth, np.diag([0.5, 0.5, 1.0, 1.0]))
    image = (stored * 200 + 10).astype(np.float32)
    prepared = prepare(PLAN, Volume(image[None], grid))
    labels = prepare_labels(stored, prepared, classes=2)
    assert tuple(labels.shape) == tuple(prepared.voxels.shape[1:]) == (10, 9, 12)
    assert labels.dtype == torch.uint8
    # The cube keeps its 4 x 4 x 6 mm.
    assert labels[2:6, 3:7, 3:9].all()
    assert int(labels.sum()) == 96
    assert torch.equal(labels.bool(), prepared.voxels[0] > 110 / 255)


def test_labels_without_resampling_are_the_same_voxels() -> None:
    truth = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 3
    grid = Grid(truth.shape, np.eye(4))
    prepared = prepare(PLAN, Volume(np.ones((1, *truth.shape), np.float32), grid))
    assert np.array_equal(prepare_labels(truth, prepared, classes=3).numpy(), truth)


def test_the_crop_keeps_what_is_not_zero_in_any_channel() -> None:
    plan = replace(PLAN, normalisation=(Normalisation("rgb"),) * 2)
    voxels = np.zeros((2, 10, 10, 10), np.float32)
    voxels[0, 2, 3, 4] = voxels[1, 5, 3, 8] = -1
    prepared = prepare(plan, Volume(voxels, Grid((10, 10, 10), np.eye(4))))
    assert prepared.crop == ((2, 6), (3, 4), (4, 9))
    assert prepared.voxels.shape == (2, 4, 1, 5)


def test_a_volume_of_zeros_is_kept_whole_and_finite() -> None:
    plan = replace(PLAN, normalisation=(Normalisation("zscore"), Normalisation("zscore", nonzero_only=True)))
    prepared = prepare(plan, Volume(np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4))))
    assert prepared.crop == ((0, 4),) * 3
    assert torch.equal(prepared.voxels, torch.zeros(2, 4, 4, 4))


def test_each_channel_is_normalised_by_its_own_rule() -> None:
    rules = (
        Normalisation("ct", lower=-100, upper=300, mean=50, std=100),
        Normalisation("rgb"),
        Normalisation("zscore"),
        Normalisation("zscore", nonzero_only=True),
    )
    values = torch.tensor([[-1000.0, 50, 150, 1000], [0, 51, 102, 255], [1, 1, 3, 3], [0, 4, 6, 0]])
    expected = torch.tensor([[-1.5, 0, 1, 2.5], [0, 0.2, 0.4, 1], [-1, -1, 1, 1], [0, -1, 1, 0]])
    assert torch.allclose(normalise(rules, values.reshape(4, 2, 2)), expected.reshape(4, 2, 2))


def test_resampling_keeps_a_ramp_a_ramp() -> None:
    ramp = torch.arange(12.0).expand(1, 5, 4, 12)
    finer = resample_image(ramp, (5, 4, 24), ("linear",) * 3)
    # New centres lie a quarter voxel beside the old ones; the ends have no neighbour to go on from.
    centres = (torch.arange(24) + 0.5) / 2 - 0.5
    assert torch.allclose(finer[0, 0, 0, 4:-4], centres[4:-4], atol=1e-5)


def test_thick_slices_are_repeated_not_blended() -> None:
    slices = torch.tensor([0.0, 10.0]).expand(1, 4, 4, 2)
    assert resample_image(slices, (4, 4, 4), ("linear", "linear", "nearest"))[0, 0, 0].tolist() == [
        0,
        0,
        10,
        10,
    ]
    grid = Grid((8, 8, 4), np.diag([1.0, 1.0, 4.0, 1.0]))
    prepared = prepare(PLAN, Volume(np.ones((1, 8, 8, 4), np.float32), grid))
    assert prepared.interpolation == ("linear", "linear", "nearest")
    assert prepared.voxels.shape == (1, 8, 8, 16)


def test_the_input_stays_as_it_was() -> None:
    voxels = np.random.default_rng(1).normal(size=(1, 6, 6, 6)).astype(np.float32)
    before = voxels.copy()
    prepare(
        replace(PLAN, normalisation=(Normalisation("zscore"),)), Volume(voxels, Grid((6, 6, 6), np.eye(4)))
    )
    assert np.array_equal(voxels, before)


def test_a_volume_that_does_not_suit_the_model_is_refused() -> None:
    with pytest.raises(BadInputError, match="the volume has 2 channels, the model was trained on 1"):
        prepare(PLAN, Volume(np.ones((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4))))
    with pytest.raises(BadInputError, match="the volume is 2-D, the model was trained on 3-D images"):
        prepare(PLAN, Volume(np.ones((1, 4, 4), np.float32), Grid((4, 4), np.eye(4))))


def test_a_fingerprint_tells_sizes_after_the_crop_and_foreground_intensities(tmp_path: Path) -> None:
    image, label = np.zeros((8, 6, 4), np.float32), np.zeros((8, 6, 4), np.uint8)
    image[2:6, 1:5] = 5
    image[3, 2, :] = (10, 10, 20, 20)
    label[3, 2, :] = 1
    write_balls(tmp_path, 1)
    write_nifti_case(tmp_path, "ball_00", [image], label, np.diag([-1.0, 2.0, 3.0, 1.0]))
    seen = take_fingerprint(read_dataset(tmp_path), np.random.default_rng(0))
    assert seen.shapes == ((4, 4, 4),)
    assert seen.spacings_mm == ((1.0, 2.0, 3.0),)
    assert seen.nonzero_share == pytest.approx(64 / 192)
    assert (seen.intensities[0].mean, seen.intensities[0].std) == (15, 5)
    assert (seen.classes, seen.channels, seen.axes) == (("background", "ball"), ("MR",), 3)
