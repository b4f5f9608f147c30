"""Voxels that nobody labelled teach nothing, are never asked for, and judge nobody."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from overread.domain import Grid
from overread.domain.labels import IGNORE
from overread.ensemble.augmentation import augment
from overread.ensemble.calibrate import calibrate
from overread.ensemble.dynunet import SupervisedLoss
from overread.ensemble.member_training import patch_dice
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.preparation import prepare, prepare_labels
from overread.ensemble.storage import read_description
from overread.ensemble.storage import write_description as describe
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import check_dataset, read_dataset
from overread.imaging.volumes import Volume
from support.datasets import write_balls, write_description, write_nifti_case
from support.plans import tiny_plan


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def volume(shape: tuple[int, ...], spacing_mm: float = 1.0) -> Volume:
    voxels = np.random.default_rng(0).uniform(1, 2, (1, *shape)).astype(np.float32)
    return Volume(voxels, Grid(shape, np.diag([spacing_mm] * 3 + [1.0])))


# Labels on their way to the network.


def test_on_the_same_grid_ignored_voxels_stay_where_they_are() -> None:
    labels = np.zeros((8, 8, 8), np.int32)
    labels[2:4] = 1
    labels[5] = IGNORE
    brought = prepare_labels(labels, prepare(tiny_plan(), volume((8, 8, 8))), classes=2)
    assert np.array_equal(brought.numpy(), labels)


@pytest.mark.parametrize(("spacing_mm", "edge"), [(2.0, 16), (0.5, 4)])
def test_resampled_labels_hold_no_value_between_ignored_and_a_class(spacing_mm: float, edge: int) -> None:
    labels = np.zeros((8, 8, 8), np.int32)
    labels[:4] = 1
    labels[:, 4:] = IGNORE
    brought = prepare_labels(labels, prepare(tiny_plan(), volume((8, 8, 8), spacing_mm)), classes=2)
    assert brought.shape == (edge, edge, edge)
    # Halves of halves: every border lies between two voxels of either grid.
    expected = np.zeros((edge, edge, edge))
    expected[: edge // 2] = 1
    expected[:, edge // 2 :] = IGNORE
    assert np.array_equal(brought.numpy(), expected)


def test_where_half_is_ignored_nothing_is_made_up() -> None:
    labels = np.ones((8, 8, 8), np.int32)
    labels[1::2] = IGNORE
    brought = prepare_labels(labels, prepare(tiny_plan(), volume((8, 8, 8), 0.5)), classes=2)
    assert set(brought.unique().tolist()) == {IGNORE}


def test_a_turned_patch_mixes_no_values() -> None:
    label = torch.full((16, 16, 16), IGNORE)
    label[6:10] = 1
    image = torch.rand(1, 16, 16, 16)
    for seed in range(20):
        _, turned = augment(image, label, tiny_plan(), generator(seed))
        # Zeros come in from outside the patch, as in the image.
        assert set(turned.unique().tolist()) <= {0, 1, IGNORE}


# The store of patches.


@pytest.fixture
def few_slices(tmp_path: Path) -> PatchStore:
    """48 slices of which two are labelled, with one voxel of class 1; and a case that is labelled throughout."""
    image = np.random.default_rng(0).uniform(1, 2, (48, 16, 16)).astype(np.float32)
    label = np.full((48, 16, 16), IGNORE, np.uint8)
    label[40:42] = 0
    label[41, 3, 3] = 1
    write_nifti_case(tmp_path / "data", "part", [image], label)
    whole = np.zeros_like(label)
    whole[10, 5:9, 5:9] = 1
    write_nifti_case(tmp_path / "data", "whole", [image], whole)
    write_description(tmp_path / "data", 2)
    store = PatchStore(tmp_path / "cases")
    store.fill(read_dataset(tmp_path / "data"), tiny_plan(), np.random.default_rng(0))
    return store


@pytest.mark.parametrize("on_foreground", [True, False])
def test_every_patch_of_a_partly_labelled_case_holds_a_labelled_voxel(
    few_slices: PatchStore, on_foreground: bool
) -> None:
    for seed in range(30):
        _, label = few_slices.sample("part", (16, 16, 16), generator(seed), on_foreground=on_foreground)
        assert bool((label != IGNORE).any())
        if on_foreground:
            assert bool((label == 1).any())


def test_labelled_background_is_sampled_too(tmp_path: Path) -> None:
    image = np.ones((16, 16, 64), np.float32)
    label = np.full((16, 16, 64), IGNORE, np.uint8)
    label[:, :, 60] = 0
    write_nifti_case(tmp_path / "data", "part", [image], label)
    write_description(tmp_path / "data", 1)
    store = PatchStore(tmp_path / "cases")
    store.fill(read_dataset(tmp_path / "data"), tiny_plan(), np.random.default_rng(0))
    for seed in range(10):
        _, patch = store.sample("part", (16, 16, 16), generator(seed), on_foreground=True)
        assert bool((patch == 0).any())


def test_of_a_case_that_nobody_labelled_any_place_is_sampled(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(1, 2, (48, 16, 16)).astype(np.float32)
    write_nifti_case(tmp_path / "data", "beside", [image], np.full(image.shape, IGNORE, np.uint8))
    write_description(tmp_path / "data", 1)
    store = PatchStore(tmp_path / "cases")
    store.fill(read_dataset(tmp_path / "data"), tiny_plan(), np.random.default_rng(0))
    patches = [store.sample("beside", (16, 16, 16), generator(seed), on_foreground=True) for seed in range(5)]
    assert all(bool((label == IGNORE).all()) for _, label in patches)
    assert len({float(image.sum()) for image, _ in patches}) == 5


def test_a_centre_never_lies_on_an_ignored_voxel(few_slices: PatchStore) -> None:
    places = np.load(few_slices.folder / "part.places.npy")
    label = np.load(few_slices.folder / "part.label.npy")
    assert label.dtype == np.uint8
    at = label[tuple(places[:, 1:].T)]
    assert (at != IGNORE).all()
    # Two slices have 512 voxels, all of them remembered; the one of class 1 once more under its own name.
    assert [(places[:, 0] == value).sum() for value in (1, IGNORE)] == [1, 512]


def test_a_fully_labelled_case_has_places_of_its_foreground_alone(few_slices: PatchStore) -> None:
    places = np.load(few_slices.folder / "whole.places.npy")
    assert set(places[:, 0]) == {1}


def test_outside_a_partly_labelled_case_there_is_background(tmp_path: Path) -> None:
    write_nifti_case(
        tmp_path / "data", "small", [np.ones((4, 16, 16), np.float32)], np.full((4, 16, 16), IGNORE, np.uint8)
    )
    write_description(tmp_path / "data", 1)
    store = PatchStore(tmp_path / "cases")
    store.fill(read_dataset(tmp_path / "data"), tiny_plan(), np.random.default_rng(0))
    _, label = store.sample("small", (16, 16, 16), generator(0), on_foreground=True)
    assert (int((label == IGNORE).sum()), int((label == 0).sum())) == (4 * 256, 12 * 256)


# The loss.


def test_the_gradient_is_exactly_zero_where_nobody_labelled() -> None:
    torch.manual_seed(0)
    outputs = [torch.randn(2, 3, n, n, n, requires_grad=True) for n in (8, 4)]
    labels = torch.randint(0, 3, (2, 8, 8, 8))
    labels[:, 4:] = IGNORE
    SupervisedLoss()(outputs, labels).backward()
    for edge, logits in zip((8, 4), outputs, strict=True):
        assert logits.grad is not None
        assert bool((logits.grad[:, :, edge // 2 :] == 0).all())
        assert bool((logits.grad[:, :, : edge // 2] != 0).all())


def test_the_loss_is_that_of_the_labelled_part_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8)
    labels = torch.randint(0, 3, (2, 8, 8))
    partial = labels.clone()
    partial[:, 5:] = IGNORE
    criterion = SupervisedLoss()
    assert torch.allclose(criterion([logits], partial), criterion([logits[:, :, :5]], labels[:, :5]))


def test_what_is_said_where_nobody_labelled_changes_no_loss() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, :2] = 1
    labels[:, 4:] = IGNORE
    logits = torch.randn(1, 2, 8, 8)
    other = logits.clone()
    other[:, :, 4:] = 1e6
    assert torch.equal(SupervisedLoss()([logits], labels), SupervisedLoss()([other], labels))


def test_a_wholly_ignored_batch_has_loss_zero_and_no_gradient() -> None:
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss = SupervisedLoss()([logits], torch.full((2, 8, 8), IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not bool(logits.grad.any())


def test_training_dice_counts_labelled_voxels_and_present_classes() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0] = 1
    labels[0, 3] = IGNORE
    said = torch.zeros(1, 4, 4, dtype=torch.int64)
    # Two of four right, two wrong in the background; what is said of ignored voxels does not count.
    said[0, 0, :2] = said[0, 1, :2] = 1
    said[0, 3] = 2
    logits = F.one_hot(said, 3).movedim(-1, 1).float()
    assert patch_dice(logits, labels) == pytest.approx(0.5)
    assert bool(patch_dice(logits, torch.zeros_like(labels)).isnan())
    assert bool(patch_dice(logits, torch.full_like(labels, IGNORE)).isnan())


# The files.


def test_a_partial_label_is_sound_only_where_it_was_accepted_from_a_reader(tmp_path: Path) -> None:
    image = np.ones((4, 4, 4), np.float32)
    part, none, background = (np.full((4, 4, 4), IGNORE, np.uint8) for _ in range(3))
    part[0] = 1
    background[0] = 0
    for name, label in (("a_part", part), ("b_none", none), ("c_background", background)):
        write_nifti_case(tmp_path, name, [image], label)
    write_description(tmp_path, 3)
    dataset = read_dataset(tmp_path)
    assert [(problem.case, problem.what) for problem in check_dataset(dataset, accepted=True)] == [
        ("b_none", "is empty: nobody labelled a voxel of it")
    ]
    assert "holds class values [255], dataset.json knows 0 to 1" in {
        problem.what for problem in check_dataset(dataset)
    }


def test_doubt_is_calibrated_on_labelled_voxels_alone(tmp_path: Path) -> None:
    options = TrainingOptions(
        members=2, iterations=15, device="cpu", precision="float32", threads=1, validation_share=0.5
    )
    data = write_balls(tmp_path / "data", 4)
    dataset = read_dataset(data)
    plan = {"features": (4, 8, 16)}
    folder = train_ensemble("ball", dataset, tmp_path / "work", options, plan)
    held_out = read_description(folder)["plan"]["held_out"][0]
    whole = calibrate(folder, dataset)

    # The same cases, and one more that says nothing but of eight voxels in a corner.
    image = np.random.default_rng(5).normal(10, 1, (16, 16, 16)).astype(np.float32)
    label = np.full((16, 16, 16), IGNORE, np.uint8)
    label[:2, :2, :2] = 0
    write_nifti_case(data, "corner", [image], label)
    description = read_description(folder)
    plan_with = {**description["plan"], "held_out": [[*held_out, "corner"], held_out]}
    describe(folder, {**description, "plan": plan_with})
    more = calibrate(folder, read_dataset(data))
    assert whole is not None
    assert more is not None
    assert more.temperature == pytest.approx(whole.temperature, rel=1e-3)
    shown = (
        more.bands["predictive_entropy"].high_voxel_share / whole.bands["predictive_entropy"].high_voxel_share
    )
    assert shown == pytest.approx(2 * 4096 / (2 * 4096 + 8), rel=0.05)
