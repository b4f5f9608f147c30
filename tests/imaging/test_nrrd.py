"""Label maps written as NRRD lie exactly where the input's voxels lie."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from overread.domain import BadInputError, Grid
from overread.imaging.volumes import read_labelmap, write_nrrd

C, S = np.cos(0.4), np.sin(0.4)
AFFINES = {
    "identity": np.eye(4),
    "anisotropic": np.array([[0.7, 0, 0, -90], [0, 0.9, 0, 12.5], [0, 0, 5, 1000], [0, 0, 0, 1.0]]),
    "flipped": np.array([[-1.5, 0, 0, 70], [0, 1.5, 0, -60], [0, 0, -3, 0.1], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 3.0, 1], [-1, 0, 0, 2], [0, 2, 0, 3], [0, 0, 0, 1.0]]),
    "oblique": np.array(
        [[1.5 * C, -1.5 * S, 0, -33], [1.5 * S, 1.5 * C, 0, 7], [0, 0, 3, 4], [0, 0, 0, 1.0]]
    ),
    "sheared as by a tilted gantry": np.array([[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 2.5, 0], [0, 0, 0, 1.0]]),
}
LABELS = np.random.default_rng(0).integers(0, 5, (5, 6, 7))


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("compress", [True, False])
def test_labels_and_affine_come_back_as_they_were(tmp_path: Path, name: str, compress: bool) -> None:
    write_nrrd(tmp_path / "a.nrrd", LABELS, Grid(LABELS.shape, AFFINES[name]), compress)
    labels, grid = read_labelmap(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_allclose(grid.affine, AFFINES[name], rtol=0, atol=1e-12)


def test_the_first_voxel_lies_at_the_origin_in_lps(tmp_path: Path) -> None:
    write_nrrd(tmp_path / "a.nrrd", LABELS, Grid(LABELS.shape, AFFINES["anisotropic"]))
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetOrigin() == (90, -12.5, 1000)
    assert image.GetPixelIDValue() == sitk.sitkUInt8
    assert image.GetPixel(1, 2, 3) == LABELS[1, 2, 3]


def test_a_picture_becomes_one_slice(tmp_path: Path) -> None:
    picture = LABELS[:, :, 0]
    write_nrrd(tmp_path / "a.nrrd", picture, Grid(picture.shape, np.eye(4)))
    assert read_labelmap(tmp_path / "a.nrrd")[0].shape == (5, 6, 1)


@pytest.mark.parametrize("odd", [256, -1, 0.5, np.nan])
def test_values_that_eight_bits_cannot_hold_are_named(tmp_path: Path, odd: float) -> None:
    with pytest.raises(BadInputError, match="8-bit label map holds whole numbers"):
        write_nrrd(tmp_path / "a.nrrd", np.full((2, 2, 2), odd), Grid((2, 2, 2), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_shape_than_the_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="do not fit the grid"):
        write_nrrd(tmp_path / "a.nrrd", LABELS, Grid((5, 6, 8), np.eye(4)))


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(OSError, match="Is a directory"):
        write_nrrd(path, LABELS, Grid(LABELS.shape, np.eye(4)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]
