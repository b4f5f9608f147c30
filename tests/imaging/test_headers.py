"""Headers tell a file's size without its voxels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.headers import read_header
from overread.imaging.volumes import write_nifti, write_nrrd


def test_volumes_and_pictures_tell_their_size(tmp_path):
    grid = Grid((4, 5, 6), np.eye(4))
    write_nifti(tmp_path / "a.nii.gz", np.zeros(grid.shape), grid)
    write_nrrd(tmp_path / "a.nrrd", np.zeros(grid.shape), grid)
    Image.new("L", (7, 3)).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.nii.gz").shape == (4, 5, 6)
    assert read_header(tmp_path / "a.nrrd").voxels == 120
    assert read_header(tmp_path / "a.png").shape == (7, 3)


def test_trailing_axes_of_one_voxel_do_not_count(tmp_path):
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1)), np.eye(4)), tmp_path / "a.nii")
    assert read_header(tmp_path / "a.nii").shape == (4, 5, 6)


def test_what_is_no_volume_is_named(tmp_path):
    (tmp_path / "broken.nrrd").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(BadInputError, match=r"broken\.nrrd cannot be read"):
        read_header(tmp_path / "broken.nrrd")
    with pytest.raises(BadInputError, match=r"notes\.txt is of a kind that is not read here"):
        read_header(tmp_path / "notes.txt")
    with pytest.raises(NotFoundError, match=r"absent\.nii does not exist"):
        read_header(tmp_path / "absent.nii")
