"""Bands are drawn into label maps whose values have no gaps, and their meaning is said in words."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.ensemble.ensemble import DoubtBands
from overread.server.doubt import draw, in_words, label_values

CLASSES = ("background", "organ", "tumour")
LABELS = np.array([[0, 1, 2, 1]], dtype=np.uint8)
BANDS = np.array([[0, 0, 1, 2]], dtype=np.uint8)


def test_values_run_from_1_without_gaps_and_classes_keep_their_index():
    assert label_values(CLASSES, bands=True) == {
        "organ": 1,
        "tumour": 2,
        "doubt: moderate": 3,
        "doubt: high": 4,
    }
    assert label_values(CLASSES, bands=False) == {"organ": 1, "tumour": 2}


def test_inside_the_labels_doubt_takes_the_place_of_the_class():
    drawing = draw(LABELS, BANDS, CLASSES, "bands inside the labels", listed=True)
    np.testing.assert_array_equal(drawing.values, [[0, 1, 3, 4]])
    np.testing.assert_array_equal(LABELS, [[0, 1, 2, 1]])


def test_only_bands_have_values_of_their_own():
    drawing = draw(LABELS, BANDS, CLASSES, "bands only", listed=True)
    np.testing.assert_array_equal(drawing.values, [[0, 0, 1, 2]])
    assert drawing.names == {"doubt: moderate": 1, "doubt: high": 2}


def test_only_bands_of_a_measure_without_bands_are_empty():
    assert not draw(LABELS, None, CLASSES, "bands only", listed=True).values.any()


def test_off_leaves_the_classes():
    np.testing.assert_array_equal(draw(LABELS, BANDS, CLASSES, "off", listed=True).values, LABELS)


def test_more_classes_than_8_bits_hold_are_refused():
    assert len(label_values(tuple(map(str, range(254))), bands=True)) == 255
    with pytest.raises(BadInputError, match="255 classes do not fit an 8-bit label map"):
        label_values(tuple(map(str, range(255))), bands=True)


def test_high_is_said_in_shares_of_wrong_voxels():
    bands = DoubtBands("variance", 0.25, 0.1, 0.613, 0.0312, 0.8, 0.08, 9)
    assert in_words("variance", bands) == (
        "`doubt: high` is variance of at least 0.25: on 9 validation cases it held 61% of the wrong voxels in 3.1% "
        "of all voxels; with `doubt: moderate` (at least 0.1) it was 80% in 8.0%."
    )
    assert "variance was not calibrated" in in_words("variance", None)
