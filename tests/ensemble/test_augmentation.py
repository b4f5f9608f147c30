"""Varied patches stay possible patches: image and label move together, and only as the plan allows."""

from dataclasses import replace

import pytest
import torch

from overread.ensemble.augmentation import augment, augment_lightly
from overread.ensemble.plan import Normalisation, Plan
from support.plans import tiny_plan

SEEDS = range(80)


def varied(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(image, label, plan, torch.Generator().manual_seed(seed))


def block(shape: tuple[int, ...], *edges: slice) -> torch.Tensor:
    label = torch.zeros(shape, dtype=torch.int64)
    label[edges] = 1
    return label


@pytest.mark.parametrize("axes", [2, 3])
def test_shapes_types_and_class_values_stay_and_the_patch_is_not_touched(axes: int) -> None:
    plan = tiny_plan(axes=axes, channels=2)
    image = torch.randn(2, *plan.patch, generator=torch.Generator().manual_seed(0))
    label = (image[0] > 0).long() * 3
    before = image.clone(), label.clone()
    changed = 0
    for seed in SEEDS:
        new_image, new_label = varied(image, label, plan, seed)
        assert new_image.shape == image.shape
        assert new_label.shape == label.shape
        assert new_image.dtype == torch.float32
        assert new_label.dtype == torch.int64
        assert torch.isfinite(new_image).all()
        assert set(new_label.unique().tolist()) <= {0, 3}
        changed += not torch.equal(new_image, image)
    assert changed > len(SEEDS) / 2
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_the_generator_decides_everything() -> None:
    plan = tiny_plan()
    image, label = torch.randn(1, *plan.patch), block(plan.patch, slice(4, 9))
    for seed in SEEDS:
        first, again = varied(image, label, plan, seed), varied(image, label, plan, seed)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("axes", [2, 3])
def test_the_label_moves_with_the_image(axes: int) -> None:
    plan = tiny_plan(axes=axes)
    label = block(plan.patch, slice(3, 9), slice(5, 13))
    for seed in SEEDS:
        image, moved = varied(label[None].float(), label, plan, seed)
        # 0.2 is usual where the label stays behind; noise and blur leave 0.75 and more.
        alike = torch.corrcoef(torch.stack([image.flatten(), moved.flatten().float()]))[0, 1]
        assert alike > 0.75, seed


def test_sides_are_exchanged_only_along_the_axes_of_the_plan() -> None:
    one_side = block((16, 16, 16), slice(0, 8))
    exchanged = {(): 0, (0,): 0, (1, 2): 0}
    for axes in exchanged:
        plan = tiny_plan(mirror_axes=axes)
        for seed in SEEDS:
            _, moved = varied(one_side[None].float(), one_side, plan, seed)
            exchanged[axes] += int(moved[8:].sum() > moved[:8].sum())
    assert exchanged[()] == exchanged[(1, 2)] == 0
    assert 0.3 < exchanged[(0,)] / len(SEEDS) < 0.7


def test_nothing_moves_across_thick_slices() -> None:
    plan = tiny_plan(spacing_mm=(1.0, 1.0, 5.0), mirror_axes=(0,))
    label = block((16, 16, 16), slice(4, 12), slice(4, 12), slice(7, 8))
    turned = 0
    for seed in SEEDS:
        _, moved = varied(label[None].float(), label, plan, seed)
        assert set(torch.nonzero(moved)[:, 2].tolist()) == {7}
        turned += not torch.equal(moved, label)
    assert turned > len(SEEDS) / 10


def test_rgb_stays_between_black_and_white_and_looks_like_before() -> None:
    plan = replace(
        tiny_plan(axes=2, channels=3, mirror_axes=(0, 1)),
        normalisation=(Normalisation("rgb"),) * 3,
        stain=0.05,
    )
    image = torch.rand(3, *plan.patch, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.4
    for seed in SEEDS:
        new, _ = varied(image, block(plan.patch), plan, seed)
        assert 0 <= float(new.min()) <= float(new.max()) <= 1
        # Turned corners are black; in the middle a pink stays a pink.
        middle = new[:, 6:10, 6:10].mean(dim=(1, 2))
        assert ((middle - 0.6).abs() < 0.3).all(), seed


def lightly(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return augment_lightly(image, label, plan, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axes", [2, 3])
def test_lightly_every_patch_is_changed_a_little_and_its_label_with_it(axes: int) -> None:
    plan = tiny_plan(axes=axes)
    label = block(plan.patch, *(slice(4, n - 4) for n in plan.patch))
    image = label[None].float()
    before = image.clone()
    for seed in SEEDS:
        new_image, new_label = lightly(image, label, plan, seed)
        assert new_image.shape == image.shape
        assert new_label.dtype == torch.int64
        assert not torch.equal(new_image, image)
        # Scaled by 15 % at the most, and a voxel more or less at each edge.
        share = float(new_label.sum()) / float(label.sum())
        assert 0.65**axes < share < 1.35**axes
        # Inside and outside stay apart: nothing is blurred or drowned in noise.
        inside, outside = new_image[0][new_label == 1], new_image[0][new_label == 0]
        assert float(inside.mean() - outside.mean()) > 0.6
        again = lightly(image, label, plan, seed)
        assert torch.equal(again[0], new_image)
        assert torch.equal(again[1], new_label)
    assert torch.equal(image, before)


def test_lightly_rgb_stays_between_black_and_white() -> None:
    plan = replace(tiny_plan(axes=2, channels=3), normalisation=(Normalisation("rgb"),) * 3)
    image = torch.rand(3, *plan.patch, generator=torch.Generator().manual_seed(0))
    label = (image[0] > 0.5).long()
    for seed in SEEDS:
        varied_image, _ = lightly(image, label, plan, seed)
        assert float(varied_image.min()) >= 0
        assert float(varied_image.max()) <= 1
