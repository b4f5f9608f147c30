"""A grid is valid from birth, knows its spacing, and says in words what tells it from another."""

import numpy as np
import pytest

from overread.domain import BadInputError, Grid


def affine(*spacing_mm: float, origin_mm: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    matrix = np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = origin_mm
    return matrix


def test_spacing_and_voxel_volume_come_from_the_affine():
    grid = Grid((10, 20, 30), affine(0.5, 2.0, 3.0))
    assert grid.spacing_mm == (0.5, 2.0, 3.0)
    assert grid.voxel_volume_mm3 == pytest.approx(3.0)


def test_spacing_of_a_rotated_and_flipped_grid_stays_positive():
    turn = np.array([[0.0, -2.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    assert Grid((4, 4, 4), turn).spacing_mm == (1.0, 2.0, 3.0)


def test_a_picture_has_two_spacings_and_an_area():
    grid = Grid((10, 20), affine(0.5, 2.0, 1.0))
    assert grid.spacing_mm == (0.5, 2.0)
    assert grid.voxel_volume_mm3 == pytest.approx(1.0)


def test_the_affine_is_copied_and_cannot_be_written_to():
    mine = affine(1, 1, 1)
    grid = Grid((2, 2, 2), mine)
    mine[0, 0] = 5
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5


def test_a_grid_does_not_differ_from_itself_nor_within_the_tolerance():
    grid = Grid((5, 5, 5), affine(1, 1, 1))
    assert grid.difference_from(grid) is None
    assert grid.difference_from(Grid((5, 5, 5), affine(1, 1, 1, origin_mm=(0.005, 0, 0)))) is None


def test_another_shape_is_named():
    grid, other = Grid((5, 5, 5), affine(1, 1, 1)), Grid((5, 5, 6), affine(1, 1, 1))
    assert grid.difference_from(other) == "shape (5, 5, 5) instead of (5, 5, 6)"


def test_a_small_error_of_spacing_counts_by_what_it_moves_the_far_corner():
    grid, other = Grid((101, 5, 5), affine(1, 1, 1)), Grid((101, 5, 5), affine(1.001, 1, 1))
    assert grid.difference_from(other) == "a position that differs by 0.1 mm at a corner"
    assert grid.difference_from(other, tolerance_mm=0.2) is None


def test_pictures_are_compared_in_their_plane():
    grid = Grid((11, 5), affine(1, 1, 1))
    assert grid.difference_from(Grid((11, 5), affine(1, 1, 7))) is None
    assert grid.difference_from(Grid((11, 5), affine(1.1, 1, 1))) is not None


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4, 4), (4, 0, 4)])
def test_refuses_a_shape_that_is_no_image(shape):
    with pytest.raises(BadInputError, match="a grid has 2 or 3 axes of at least one voxel"):
        Grid(shape, np.eye(4))


@pytest.mark.parametrize("matrix", [np.eye(3), np.full((4, 4), np.nan)])
def test_refuses_an_affine_that_is_not_4x4_and_finite(matrix):
    with pytest.raises(BadInputError, match="affine is 4x4 and finite"):
        Grid((4, 4, 4), matrix)


def test_refuses_an_affine_that_flattens_space():
    with pytest.raises(BadInputError, match="onto a plane"):
        Grid((4, 4, 4), affine(1, 0, 1))
