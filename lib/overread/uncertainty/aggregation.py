"""Aggregations: from an uncertainty map to one score a case, to sort cases by.

Adding one is a function `(values, labels) -> number` with the decorator `aggregation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool3d, max_pool3d

from overread.domain import BadInputError, OverreadError, Registry, UncertaintyMap
from overread.uncertainty.tensors import class_numbers


@dataclass(frozen=True)
class Aggregation:
    """A named way to sum up a map.

    Attributes:
        name: on the wire and in `/info`.
        description: one sentence for people.
        score: `(values (*space), labels (*space), **options)` to a number.
    """

    name: str
    description: str
    score: Callable[..., float]

    def __call__(
        self, uncertainty: UncertaintyMap, labels: torch.Tensor | np.ndarray, **options: Any
    ) -> float:
        """The score of one case: at least 0, finite; more means more doubt.

        Args:
            uncertainty: 2D or 3D.
            labels: predicted classes on the same grid, integers, 0 is the background.
            options: the aggregation's own, such as `fraction`.

        Raises:
            BadInputError: the two do not fit. OverreadError: the score is no finite number.
        """
        values = uncertainty.values
        classes = class_numbers(labels, self.name).to(values.device)
        if values.shape != classes.shape:
            raise BadInputError(
                f"{self.name}: the map is {tuple(values.shape)}, the labels {tuple(classes.shape)}"
            )
        if values.ndim not in (2, 3) or values.numel() == 0:
            raise BadInputError(f"{self.name} needs a 2D or 3D map with voxels, got {tuple(values.shape)}")
        score = float(self.score(values, classes, **options))
        if not math.isfinite(score):
            raise OverreadError(f"{self.name} gave {score}, expected a finite number")
        return score


AGGREGATIONS: Registry[Aggregation] = Registry("aggregation")


def aggregation(score: Callable[..., float]) -> Aggregation:
    """Decorator: enter a function into `AGGREGATIONS` under its own name."""
    description = (score.__doc__ or "").strip().split("\n")[0]
    return AGGREGATIONS.add(score.__name__, Aggregation(score.__name__, description, score))


@aggregation
def mean(values: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean doubt over all voxels.

    Depends on how much background was scanned; the plainest score, and seldom the best one.
    """
    return float(values.mean(dtype=torch.float64))


# Two to five millimetres on ordinary grids: what a reader looks at when judging a contour.
NEAR_VOXEL = 5


@aggregation
def foreground_mean(values: torch.Tensor, labels: torch.Tensor, *, margin_voxel: int = NEAR_VOXEL) -> float:
    """Mean doubt in and near the predicted structures.

    Near: within `margin_voxel` along every axis (a box). Where nothing is predicted, the mean over all voxels.
    """
    if margin_voxel < 0:
        raise BadInputError(f"foreground_mean takes a margin of at least 0 voxels, got {margin_voxel}")
    box, near = near_foreground(labels, margin_voxel)
    return float(values[box][near].mean(dtype=torch.float64))


def near_foreground(labels: torch.Tensor, margin_voxel: int) -> tuple[tuple[slice, ...], torch.Tensor]:
    """A box of the image, and the voxels in it that `foreground_mean` is a mean over: `(box, near (*box) bool)`.

    Those within `margin_voxel` of a foreground voxel along every axis; all of the image where nothing is predicted.
    """
    foreground = labels != 0
    if not bool(foreground.any()):
        return (slice(None),) * labels.ndim, torch.ones_like(foreground)
    box = _box_around(foreground, margin_voxel)
    return box, _dilated(foreground[box], margin_voxel)


@aggregation
def boundary_normalised(values: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum of doubt over the number of boundary voxels of the predicted structures.

    A contour is always a little unsure, so that larger structures have more doubt; this takes that out. A boundary
    voxel is a foreground voxel with a face neighbour of another class; the edge of the image is no boundary.
    Where there is none (nothing predicted, or everything), the sum is divided by 1.
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(labels.ndim):
        step = labels.shape[axis] - 1
        differs = labels.narrow(axis, 0, step) != labels.narrow(axis, 1, step)
        edge.narrow(axis, 0, step).logical_or_(differs)
        edge.narrow(axis, 1, step).logical_or_(differs)
    edge &= labels != 0
    return float(values.sum(dtype=torch.float64)) / max(int(edge.sum()), 1)


@aggregation
def top_fraction(values: torch.Tensor, labels: torch.Tensor, *, fraction: float = 0.1) -> float:
    """Mean over the most doubtful tenth of the voxels.

    `fraction` of the voxels, rounded up, at least one.
    """
    if not 0 < fraction <= 1:
        raise BadInputError(f"top_fraction takes a fraction in (0, 1], got {fraction}")
    # 0.1 * 10 voxels is one voxel, also where the product comes out as 1.0000000000000002.
    count = max(1, math.ceil(fraction * values.numel() - 1e-9))
    return float(values.flatten().topk(count, sorted=False).values.mean(dtype=torch.float64))


@aggregation
def patch_maximum(values: torch.Tensor, labels: torch.Tensor, *, side_voxel: int = 10) -> float:
    """The highest mean doubt of any patch: how bad the worst place is.

    Patches are boxes of `side_voxel` along every axis (the whole axis where that is shorter), at every position.
    """
    if side_voxel < 1:
        raise BadInputError(f"patch_maximum takes a patch of at least 1 voxel, got {side_voxel}")
    field = _as_volume(values.to(torch.float64 if values.dtype == torch.float64 else torch.float32))
    for kernel in _kernels(field.shape[2:], side_voxel):
        field = avg_pool3d(field, kernel, stride=1)
    return float(field.max())


@aggregation
def volume_normalised(values: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum of doubt over the number of voxels of the predicted structures.

    Where nothing is predicted, the sum is divided by one voxel: doubt about an empty answer counts in full.
    """
    return float(values.sum(dtype=torch.float64)) / max(int((labels != 0).sum()), 1)


def _as_volume(field: torch.Tensor) -> torch.Tensor:
    """`(i, j[, k])` as `(1, 1, i, j, k)`."""
    return field.reshape(1, 1, *field.shape, *(1,) * (3 - field.ndim))


def _kernels(shape: torch.Size, side: int) -> list[tuple[int, ...]]:
    """A box as one kernel per axis, which costs the sum of its sides instead of their product."""
    sides = [min(side, n) for n in shape]
    return [tuple(s if a == axis else 1 for a in range(3)) for axis, s in enumerate(sides)]


def _box_around(mask: torch.Tensor, margin: int) -> tuple[slice, ...]:
    """The bounding box of a mask that is not empty, wider by `margin` where the image allows."""
    box = []
    for axis, size in enumerate(mask.shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = mask.any(dim=others).nonzero()
        box.append(slice(max(int(hit.min()) - margin, 0), min(int(hit.max()) + margin + 1, size)))
    return tuple(box)


def _dilated(mask: torch.Tensor, margin: int) -> torch.Tensor:
    """The mask grown by `margin` voxels along every axis."""
    field = _as_volume(mask.float())
    for axis in range(mask.ndim):
        kernel = [2 * margin + 1 if a == axis else 1 for a in range(3)]
        field = max_pool3d(field, kernel, stride=1, padding=[k // 2 for k in kernel])
    return field.reshape(mask.shape) > 0
