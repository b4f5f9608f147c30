"""Voxels that another program stored in another order come back into ours, and other voxels are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overread.domain import BadInputError, Grid
from overread.imaging.lattice import in_order_of

SHAPE = (4, 5, 6)
AFFINE = np.array([[1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
VOXELS = np.arange(np.prod(SHAPE)).reshape(SHAPE)


def stored_otherwise(axes: tuple[int, ...], backwards: tuple[int, ...], affine: np.ndarray) -> tuple:
    """VOXELS with axes exchanged and turned round, and the grid that keeps each voxel where it was."""
    voxels = np.flip(VOXELS.transpose(axes), backwards)
    order = np.eye(4)[[*axes, 3]].T
    turned = np.eye(4)
    for axis in backwards:
        turned[axis, axis], turned[axis, 3] = -1, voxels.shape[axis] - 1
    return voxels, Grid(voxels.shape, affine @ order @ turned)


@given(
    axes=st.permutations(range(3)),
    backwards=st.sets(st.integers(0, 2)),
    angle=st.floats(-0.7, 0.7, allow_subnormal=False),
)
def test_any_order_of_storage_is_undone(axes: list[int], backwards: set[int], angle: float) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    voxels, here = stored_otherwise(tuple(axes), tuple(backwards), turn @ AFFINE)
    np.testing.assert_array_equal(in_order_of(voxels, here, Grid(SHAPE, turn @ AFFINE)), VOXELS)


def test_slices_in_reverse_are_put_right() -> None:
    reverse = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
    restored = in_order_of(VOXELS[:, :, ::-1], Grid(SHAPE, reverse), Grid(SHAPE, AFFINE))
    np.testing.assert_array_equal(restored, VOXELS)


def test_the_same_grid_changes_nothing() -> None:
    np.testing.assert_array_equal(in_order_of(VOXELS, Grid(SHAPE, AFFINE), Grid(SHAPE, AFFINE)), VOXELS)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Grid(SHAPE, AFFINE + np.outer([0, 0, 1, 0], [0, 0, 0, 2.0])), "2 mm"),
        (Grid((4, 5, 7), AFFINE), r"shape \(4, 5, 6\) instead of \(4, 5, 7\)"),
        (Grid(SHAPE, AFFINE @ np.diag([2, 1, 1, 1.0])), "position that differs by"),
        (Grid((4, 5), AFFINE), r"instead of \(4, 5\)"),
        (Grid((4, 5, 6), AFFINE[[1, 0, 2, 3]]), r"shape \(5, 4, 6\) instead of"),
    ],
)
def test_voxels_at_other_places_are_refused(other: Grid, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        in_order_of(VOXELS, Grid(SHAPE, AFFINE), other)


def test_pictures_without_slices_are_refused() -> None:
    picture = Grid((4, 5), AFFINE)
    with pytest.raises(BadInputError, match="cannot be compared"):
        in_order_of(VOXELS[..., 0], picture, picture)


def test_the_argument_stays_as_it_is() -> None:
    before = VOXELS.copy()
    in_order_of(VOXELS, Grid(SHAPE, AFFINE), Grid(SHAPE, AFFINE))
    np.testing.assert_array_equal(VOXELS, before)
