"""Submitted values become class indices by the order of their names; doubt returns to where it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, Grid
from overread.imaging.volumes import write_nifti
from overread.server.labels import accept, read_submission
from overread.server.maps import Proposal

CLASSES = ("background", "organ", "tumour")


def proposal(labels: list[int], inside: bool):
    grid = Grid((len(labels), 1, 1), np.eye(4))
    return lambda: Proposal(np.array(labels).reshape(-1, 1, 1), grid, classes_hold_doubt=inside)


def values(*numbers: int) -> np.ndarray:
    return np.array(numbers).reshape(-1, 1, 1)


def test_the_order_of_names_decides():
    accepted = accept(values(0, 1, 2), ["tumour", "organ"], CLASSES, lambda: None)
    assert accepted.labels.ravel().tolist() == [0, 2, 1]
    assert accepted.names == {"tumour": 2, "organ": 1}


def test_a_segment_called_background_is_background():
    accepted = accept(values(1, 2), ["background", "organ"], CLASSES, lambda: None)
    assert accepted.labels.ravel().tolist() == [0, 1]


def test_doubt_inside_the_labels_returns_to_the_proposal():
    names = ["doubt: high", "doubt: moderate", "organ"]
    accepted = accept(values(1, 2, 3, 0), names, CLASSES, proposal([2, 1, 2, 2], inside=True))
    assert accepted.labels.ravel().tolist() == [2, 1, 1, 0]
    assert accepted.returned == 2


def test_doubt_over_the_labels_is_background():
    accepted = accept(values(1, 2), ["doubt: high", "organ"], CLASSES, proposal([1, 1], inside=False))
    assert accepted.labels.ravel().tolist() == [0, 1]
    assert accepted.returned == 0


def test_doubt_without_a_proposal_is_background():
    accepted = accept(values(1, 2), ["doubt: high", "organ"], CLASSES, lambda: None)
    assert accepted.labels.ravel().tolist() == [0, 1]


def test_a_proposal_of_another_volume_is_not_used():
    accepted = accept(values(1, 2), ["doubt: high", "organ"], CLASSES, proposal([1, 1, 1], inside=True))
    assert accepted.labels.ravel().tolist() == [0, 1]


def test_where_no_model_is_known_names_are_numbered_in_their_order():
    accepted = accept(values(1, 2, 3), ["liver", "doubt: high", "spleen"], None, lambda: None)
    assert accepted.labels.ravel().tolist() == [1, 0, 2]
    assert accepted.names == {"liver": 1, "spleen": 2}


def test_without_names_values_are_class_indices():
    assert accept(values(0, 2), None, CLASSES, lambda: None).labels.ravel().tolist() == [0, 2]
    assert accept(values(0, 7), None, None, lambda: None).labels.ravel().tolist() == [0, 7]


def test_slices_in_reverse_order_at_the_same_places_are_put_right(tmp_path: Path):
    """3D Slicer holds right-handed volumes only: the label of a left-handed image comes back like this."""
    left_handed = np.diag([-1.0, 1, 2, 1])
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    reverse = left_handed @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "label.nii.gz", labels[:, :, ::-1], Grid((2, 3, 4), reverse))
    read = read_submission(tmp_path / "label.nii.gz", Grid((2, 3, 4), left_handed))
    np.testing.assert_array_equal(read, labels)


def test_slices_in_reverse_order_at_other_places_are_refused(tmp_path: Path):
    labels = np.zeros((2, 3, 4), np.uint8)
    write_nifti(tmp_path / "label.nii.gz", labels, Grid((2, 3, 4), np.diag([1.0, 1, -2, 1])))
    with pytest.raises(BadInputError, match="another grid than the image: a position that differs by 6 mm"):
        read_submission(tmp_path / "label.nii.gz", Grid((2, 3, 4), np.diag([1.0, 1, 2, 1])))
