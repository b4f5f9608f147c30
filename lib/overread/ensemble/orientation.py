"""The patient's axes: turn volumes to the closest R, A, S and find where there is something to see."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from overread.domain import Grid

Box = tuple[tuple[int, int], ...]


def canonical_axes(grid: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which input axis runs closest to R, A and S, and which of them run against; pictures stay as they are."""
    if len(grid.shape) == 2:
        return (0, 1), (False, False)
    orientation = nib.orientations.io_orientation(grid.affine)
    axes, flips = [0] * 3, [False] * 3
    for input_axis, (model_axis, direction) in enumerate(orientation):
        axes[int(model_axis)] = input_axis
        flips[int(model_axis)] = direction < 0
    return tuple(axes), tuple(flips)


def to_canonical(voxels: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """A view of `(channel, *space)` with the space axes permuted and flipped."""
    turned = voxels.transpose(0, *(a + 1 for a in axes))
    return turned[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in flips))]


def nonzero_box(voxels: np.ndarray) -> Box:
    """The smallest box that holds every voxel of `(channel, *space)` that is not 0; all of it where all are."""
    occupied = (voxels != 0).any(axis=0)
    box = []
    for axis in range(occupied.ndim):
        line = np.flatnonzero(occupied.any(axis=tuple(a for a in range(occupied.ndim) if a != axis)))
        box.append((int(line[0]), int(line[-1]) + 1) if len(line) else (0, occupied.shape[axis]))
    return tuple(box)
