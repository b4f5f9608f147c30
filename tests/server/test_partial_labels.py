"""A label may speak of a part of the image; the rest is kept as not labelled."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.server.labels import accept
from overread.server.partial import labelled_part

SHAPE = (6, 5, 4)
CLASSES = ("background", "organ", "tumour")


def test_without_either_the_label_speaks_of_everything():
    assert labelled_part({"client_id": "x"}, SHAPE) is None


def test_a_region_is_a_box_of_voxels():
    part = labelled_part({"region": [[1, 3], [0, 5], [2, 4]]}, SHAPE)
    assert part is not None
    expected = np.zeros(SHAPE, bool)
    expected[1:3, :, 2:4] = True
    np.testing.assert_array_equal(part, expected)


def test_slices_are_whole_planes():
    part = labelled_part({"slices": {"axis": 2, "indices": [0, 3]}}, SHAPE)
    assert part is not None
    expected = np.zeros(SHAPE, bool)
    expected[..., [0, 3]] = True
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"region": [[0, 1]], "slices": {}}, "region and slices were both sent"),
        ({"region": "all"}, r"region is 'all', expected 3 pairs of voxel indices like \[\[0, 6\], ...\]"),
        ({"region": [[0, 1], [0, 1]]}, "expected 3 pairs"),
        ({"region": [[0, 1], [0, 1], [0, 1.5]]}, "expected 3 pairs"),
        ({"region": [[0, 1], [0, 1], [True, 2]]}, "expected 3 pairs"),
        ({"region": [[0, 1], [0, 6], [0, 1]]}, "from 0 to 6 along axis 1, where the image has 0 to 5"),
        ({"region": [[2, 2], [0, 5], [0, 1]]}, "from 2 to 2 along axis 0"),
        ({"slices": [1]}, "slices is .*, expected"),
        ({"slices": {"axis": 2}}, "slices is .*, expected"),
        ({"slices": {"axis": 2, "indices": []}}, "slices is .*, expected"),
        ({"slices": {"axis": "z", "indices": [1]}}, "slices is .*, expected"),
        ({"slices": {"axis": 3, "indices": [1]}}, "slices lie across axis 3, the image has axes 0 to 2"),
        (
            {"slices": {"axis": 2, "indices": [1, 4]}},
            "slice 4 is not in the image, which has 0 to 3 across axis 2",
        ),
    ],
)
def test_a_part_that_cannot_be_meant_is_refused(params, words):
    with pytest.raises(BadInputError, match=words):
        labelled_part(params, SHAPE)


def accepted(values: list[int], names: list[str] | None, classes=CLASSES) -> list[int]:
    labels = np.array(values).reshape(-1, 1, 1)
    return accept(labels, names, classes, lambda: None).labels.ravel().tolist()


@pytest.mark.parametrize("name", ["not labelled", "ignore"])
def test_a_segment_marks_what_was_not_labelled(name):
    assert accepted([0, 1, 2, 3], ["organ", name, "tumour"]) == [0, 1, IGNORE, 2]
    assert accepted([0, 1, 2, 3], ["spleen", name, "liver"], None) == [0, 1, IGNORE, 2]


def test_a_class_of_that_name_is_a_class():
    assert accepted([0, 1], ["ignore"], ("background", "ignore")) == [0, 1]


def test_among_class_indices_255_is_not_labelled():
    assert accepted([0, 2, 255], None) == [0, 2, IGNORE]
    assert accepted([0, 254, 255], None, None) == [0, 254, IGNORE]
    with pytest.raises(BadInputError, match=r"the label holds value 3, expected 0\.\.2"):
        accepted([0, 3, 255], None)
