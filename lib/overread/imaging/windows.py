"""Sliding windows: where they lie, how they are weighted, how their results return to another number of voxels."""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch

Interpolation = Literal["linear", "nearest"]
# Width of the Gaussian weight as a share of the window (nnU-Net, Isensee et al. 2021).
GAUSSIAN_SIGMA_SHARE = 1 / 8


def window_starts(size: int, patch: int, step: float) -> list[int]:
    """First voxels of windows that cover an axis, evenly spaced at most `step * patch` apart.

    Args:
        size: voxels along the axis, at least `patch`.
        patch: voxels of a window.
        step: largest distance of neighbours as a share of the window, in (0, 1].
    """
    if size <= patch:
        return [0]
    # A patch of one voxel (slices shown to a 2D network) moves by whole voxels.
    count = ceil((size - patch) / max(patch * step, 1)) + 1
    return [round((size - patch) * index / (count - 1)) for index in range(count)]


def gaussian_weight(patch: tuple[int, ...]) -> torch.Tensor:
    """Weight `(*patch)` in (0, 1] that trusts the middle of a window more than its rim."""
    weight = torch.ones(patch)
    for axis, size in enumerate(patch):
        distance = torch.arange(size, dtype=torch.float64) - size // 2
        along = torch.exp(-0.5 * (distance / (size * GAUSSIAN_SIGMA_SHARE)) ** 2).float()
        weight = weight * along.reshape([-1 if a == axis else 1 for a in range(len(patch))])
    return weight


def half_weight(patch: tuple[int, ...]) -> torch.Tensor:
    """`gaussian_weight` in float16 as nnunetv2 has it: 10 in the middle, and what would vanish is held up."""
    weight = (10 * gaussian_weight(patch)).half()
    return weight.where(weight > 0, weight[weight > 0].min())


def padding_to(shape: tuple[int, ...], patch: tuple[int, ...]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis so that a window fits, the image in the middle."""
    missing = [max(0, p - n) for n, p in zip(shape, patch, strict=True)]
    return [(m // 2, m - m // 2) for m in missing]


class AxisInterpolation:
    """From `size_in` to `size_out` samples along one axis, voxel centres aligned, edges held.

    The rule is that of `scipy.ndimage.zoom(grid_mode=True, mode="nearest")` and of
    `torch.nn.functional.interpolate(align_corners=False)`, one axis at a time, so that a volume can be
    interpolated slab by slab.
    """

    def __init__(self, size_in: int, size_out: int, mode: Interpolation) -> None:
        self.size_in, self.size_out = size_in, size_out
        position = (torch.arange(size_out, dtype=torch.float64) + 0.5) * (size_in / size_out) - 0.5
        position = position.clamp(0, size_in - 1)
        if mode == "nearest":
            position = (position + 0.5).floor().clamp(0, size_in - 1)
        self.low = position.floor().long()
        self.high = (self.low + 1).clamp(max=size_in - 1)
        self.share = (position - self.low).float()

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.size_in == self.size_out

    def outputs_from(self, inputs: int) -> int:
        """How many leading output samples can be computed once the first `inputs` input samples are there."""
        # A position on a sample needs no neighbour.
        last_needed = torch.where(self.share > 0, self.high, self.low)
        return int((last_needed < inputs).sum())

    def __call__(
        self, values: torch.Tensor, axis: int, outputs: slice = slice(None), first_input: int = 0
    ) -> torch.Tensor:
        """Interpolate `values` along `axis`.

        Args:
            values: input samples `first_input` and following along `axis`.
            outputs: which output samples to compute.
        """
        if self.is_identity and first_input == 0 and outputs == slice(None):
            return values
        low = (self.low[outputs] - first_input).to(values.device)
        share = self.share[outputs].to(values)
        below = values.index_select(axis, low)
        if not bool((share > 0).any()):
            return below
        # Where the share is 0 the upper neighbour may not be there yet; any sample will do.
        high = (self.high[outputs] - first_input).clamp(max=values.shape[axis] - 1).to(values.device)
        share = share.reshape([-1 if a == axis % values.ndim else 1 for a in range(values.ndim)])
        return torch.lerp(below, values.index_select(axis, high), share)
