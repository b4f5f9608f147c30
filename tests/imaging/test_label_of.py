"""A label belongs to its image: a picture's has two axes however it was kept, and another grid is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid
from overread.imaging.volumes import label_difference, read_label_of, read_volume, write_nifti

# Three columns and two rows, as a picture is stored.
ROWS = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)


def test_a_picture_s_label_is_the_same_as_png_and_as_a_volume_of_one_slice(tmp_path: Path) -> None:
    Image.fromarray(ROWS).save(tmp_path / "image.png")
    Image.fromarray(ROWS).save(tmp_path / "label.png")
    grid = read_volume([tmp_path / "image.png"]).grid
    # Where the viewer thinks that it lies does not matter.
    write_nifti(tmp_path / "label.nii.gz", ROWS.T, Grid((3, 2), np.diag([0.5, 0.5, 1, 1])))
    for name in ("label.png", "label.nii.gz"):
        label = read_label_of(tmp_path / name, grid)
        assert label.shape == (3, 2)
        assert label[2, 0] == 2
        assert label[0, 1] == 3


def test_a_label_with_exchanged_axes_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "label.nii.gz", ROWS, Grid((2, 3), np.eye(4)))
    with pytest.raises(
        BadInputError, match=r"label\.nii\.gz lies on another grid than its image: shape \(2, 3, 1\)"
    ):
        read_label_of(tmp_path / "label.nii.gz", Grid((3, 2), np.eye(4)))


def test_volumes_are_compared_by_their_corners() -> None:
    grid = Grid((3, 2, 1), np.eye(4))
    assert label_difference(grid, grid) is None
    assert label_difference(Grid((3, 2, 1), np.diag([2, 1, 1, 1])), grid) == (
        "a position that differs by 2 mm at a corner"
    )
    assert label_difference(Grid((3, 2), np.eye(4)), grid) == "shape (3, 2) instead of (3, 2, 1)"
