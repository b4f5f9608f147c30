"""The same voxels in another order of storage."""

from __future__ import annotations

import numpy as np

from overread.domain import BadInputError, Grid


def in_order_of(voxels: np.ndarray, here: Grid, wanted: Grid, tolerance_mm: float = 1e-2) -> np.ndarray:
    """Voxels `(i, j, k)` on the grid `here`, with axes exchanged and turned round as `wanted` stores them.

    Viewers do not keep a file's order: 3D Slicer holds right-handed volumes only, and so gives the label of a
    left-handed image (among them most NIfTI files of CT) back with its slices in reverse. No voxel is moved
    or interpolated.

    Raises:
        BadInputError: the grids do not share their voxels' places; the message says by how much they differ.
    """
    to_wanted = np.linalg.solve(wanted.affine, here.affine)[:3, :3]
    turn = np.rint(to_wanted)
    is_turn = bool((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all())
    if len(here.shape) != 3 or len(wanted.shape) != 3 or not is_turn:
        raise BadInputError(here.difference_from(wanted, tolerance_mm) or "axes that cannot be compared")
    source_axes = tuple(int(axis) for axis in np.abs(turn).argmax(axis=1))
    backwards = tuple(axis for axis in range(3) if turn[axis, source_axes[axis]] < 0)
    shape = tuple(here.shape[axis] for axis in source_axes)
    # Index in the new order to index in the old one.
    back = np.eye(4)
    back[:3, :3] = turn.T
    for axis in backwards:
        back[source_axes[axis], 3] = shape[axis] - 1
    if difference := Grid(shape, here.affine @ back).difference_from(wanted, tolerance_mm):
        raise BadInputError(difference)
    return np.flip(voxels.transpose(source_axes), backwards)
