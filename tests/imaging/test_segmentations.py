"""3D Slicer's segmentation files are read by their own header: names, values and layers of the segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from overread.domain import BadInputError
from overread.imaging.segmentations import read_segments
from support.slicer import write_segments

SHAPE = (4, 3, 2)


def row(*values: int) -> np.ndarray:
    """Values along the first axis, everywhere else the same."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], SHAPE).copy()


def values_along_first_axis(labels: np.ndarray) -> list[int]:
    return labels[:, 0, 0].tolist()


def test_values_become_positions_of_the_names(tmp_path: Path):
    path = write_segments(
        tmp_path / "a.seg.nrrd", [row(0, 7, 3, 0)], [("tumour", 0, 3), ("organ", 0, 7), ("empty", 0, 9)]
    )
    segments = read_segments(path)
    assert segments is not None
    assert segments.names == ("tumour", "organ", "empty")
    assert values_along_first_axis(segments.labels) == [0, 2, 1, 0]
    assert segments.labels.shape == SHAPE
    # Written in LPS with spacings 1, 1, 2 from the origin: in RAS the first two axes run backwards.
    np.testing.assert_allclose(segments.grid.affine, np.diag([-1.0, -1, 2, 1]))


def test_the_later_of_two_segments_that_overlap_shows(tmp_path: Path):
    layers = [row(1, 1, 1, 0), row(0, 0, 1, 1)]
    path = write_segments(tmp_path / "a.nrrd", layers, [("organ", 0, 1), ("tumour", 1, 1)])
    segments = read_segments(path)
    assert segments is not None
    assert values_along_first_axis(segments.labels) == [1, 1, 2, 2]
    path = write_segments(tmp_path / "b.nrrd", layers, [("tumour", 1, 1), ("organ", 0, 1)])
    segments = read_segments(path)
    assert segments is not None
    assert values_along_first_axis(segments.labels) == [2, 2, 2, 1]


def test_an_old_file_has_one_segment_a_layer(tmp_path: Path):
    layers = [row(1, 1, 0, 0), row(0, 0, 0, 1)]
    path = write_segments(tmp_path / "a.nrrd", layers, [("organ", None, None), ("tumour", None, None)])
    segments = read_segments(path)
    assert segments is not None
    assert values_along_first_axis(segments.labels) == [1, 1, 0, 2]


def test_a_plain_label_map_is_no_segmentation(tmp_path: Path):
    path = write_segments(tmp_path / "a.nrrd", [row(0, 1, 2, 0)], [])
    assert read_segments(path) is None
    assert read_segments(tmp_path / "b.nii.gz") is None


def test_what_contradicts_its_header_is_refused(tmp_path: Path):
    path = write_segments(tmp_path / "a.nrrd", [row(0, 1, 5, 0)], [("organ", 0, 1)])
    with pytest.raises(BadInputError, match="holds value 5, which no segment of its header has"):
        read_segments(path)
    path = write_segments(tmp_path / "b.nrrd", [row(0, 1, 1, 0)], [("organ", 4, 1)])
    with pytest.raises(BadInputError, match="segment 0 lies in layer 4 by its header, the file has 1"):
        read_segments(path)
    path = write_segments(tmp_path / "c.nrrd", [row(0, 1, 1, 0)], [("organ", 0, "one")])
    with pytest.raises(BadInputError, match="Segment0_LabelValue is 'one', expected a whole number"):
        read_segments(path)
    path.write_bytes(b"NRRD0004\nnonsense")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_segments(path)


def test_a_segmentation_of_a_time_series_is_refused(tmp_path: Path):
    image = sitk.Image([2, 2, 2, 2], sitk.sitkUInt8)
    image.SetMetaData("Segment0_Name", "organ")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(BadInputError, match="is 4-D, expected 3-D with one component a layer"):
        read_segments(tmp_path / "a.nrrd")
