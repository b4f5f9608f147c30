"""A score sums up a map as its name says, in 2D and 3D, and is a finite number or an exception."""

import math

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, OverreadError, UncertaintyMap
from overread.uncertainty import AGGREGATIONS, Aggregation
from overread.uncertainty.aggregation import aggregation

ALL = list(AGGREGATIONS)


def score(name: str, values, labels, **options) -> float:
    field = UncertaintyMap(torch.as_tensor(values, dtype=torch.float32), "nat", 10.0)
    return AGGREGATIONS[name](field, np.asarray(labels, dtype=np.uint8), **options)


def square(size: int, first: int, last: int, axes: int = 2) -> np.ndarray:
    """Background with a block of class 1 at first..last (both in) along every axis."""
    labels = np.zeros((size,) * axes, dtype=np.uint8)
    labels[(slice(first, last + 1),) * axes] = 1
    return labels


def test_mean_is_over_all_voxels():
    assert score("mean", [[0, 1], [2, 3]], [[0, 0], [0, 1]]) == 1.5


@pytest.mark.parametrize("axes", [2, 3])
def test_foreground_mean_takes_the_structure_and_its_margin(axes):
    labels = square(9, 4, 4, axes)
    values = np.zeros((9,) * axes)
    values[(slice(3, 6),) * axes] = 1
    assert score("foreground_mean", values, labels, margin_voxel=0) == 1
    assert score("foreground_mean", values, labels, margin_voxel=1) == 1
    assert score("foreground_mean", values, labels, margin_voxel=2) == pytest.approx((3 / 5) ** axes)


def test_foreground_mean_does_not_fill_the_box_between_two_structures():
    labels = np.zeros((9, 9))
    labels[0, 0] = labels[8, 8] = 2
    values = np.ones((9, 9))
    values[4, 4] = 1000
    assert score("foreground_mean", values, labels, margin_voxel=2) == 1


def test_foreground_mean_stops_at_the_edge_of_the_image():
    values = np.arange(9).reshape(3, 3)
    assert score("foreground_mean", values, square(3, 0, 0), margin_voxel=1) == (0 + 1 + 3 + 4) / 4
    assert score("foreground_mean", values, square(3, 0, 0), margin_voxel=50) == 4


def test_foreground_mean_is_the_plain_mean_where_nothing_is_predicted():
    assert score("foreground_mean", [[0, 1], [2, 3]], np.zeros((2, 2))) == 1.5


def test_boundary_normalised_divides_by_the_boundary_voxels():
    # A block of 3 x 3 has 8 voxels on its boundary, one of 3 x 3 x 3 has 26.
    assert score("boundary_normalised", np.full((7, 7), 2.0), square(7, 2, 4)) == 49 * 2 / 8
    assert score("boundary_normalised", np.full((7, 7, 7), 2.0), square(7, 2, 4, axes=3)) == 343 * 2 / 26


def test_the_edge_of_the_image_is_no_boundary_but_another_class_is():
    # Two columns of class 1 beside one of class 2: the boundary is columns 1 and 2.
    assert score("boundary_normalised", np.ones((4, 3)), [[1, 1, 2]] * 4) == 12 / 8


@pytest.mark.parametrize("label", [0, 1])
def test_boundary_normalised_is_the_sum_where_there_is_no_boundary(label):
    assert score("boundary_normalised", np.ones((3, 4)), np.full((3, 4), label)) == 12


def test_top_fraction_is_the_mean_of_the_most_doubtful():
    values = np.arange(1, 101).reshape(10, 10)
    labels = np.zeros((10, 10))
    assert score("top_fraction", values, labels) == pytest.approx(95.5)
    assert score("top_fraction", values, labels, fraction=0.02) == pytest.approx(99.5)
    assert score("top_fraction", values, labels, fraction=1) == pytest.approx(50.5)
    assert score("top_fraction", values, labels, fraction=0.0001) == 100


def test_top_fraction_rounds_up_to_whole_voxels():
    # A tenth of 12 voxels is 1.2: two of them.
    assert score("top_fraction", np.arange(12).reshape(3, 4), np.zeros((3, 4))) == 10.5


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1])
def test_top_fraction_refuses_what_is_no_share(fraction):
    with pytest.raises(BadInputError, match=r"fraction in \(0, 1\]"):
        score("top_fraction", np.ones((2, 2)), np.zeros((2, 2)), fraction=fraction)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("corner", [0, 3, 7])
def test_patch_maximum_finds_the_worst_patch_wherever_it_is(axes, corner):
    values = np.zeros((9,) * axes)
    values[(slice(corner, corner + 2),) * axes] = 3
    labels = np.zeros((9,) * axes)
    assert score("patch_maximum", values, labels, side_voxel=2) == pytest.approx(3)
    assert score("patch_maximum", values, labels, side_voxel=4) == pytest.approx(3 * (2 / 4) ** axes)


def test_patch_maximum_prefers_a_doubtful_region_to_one_doubtful_voxel():
    values = np.zeros((20, 20))
    values[0, 0] = 4
    values[10:13, 10:13] = 1
    assert score("patch_maximum", values, np.zeros((20, 20)), side_voxel=3) == pytest.approx(1)
    assert score("patch_maximum", values, np.zeros((20, 20)), side_voxel=1) == 4


def test_patch_maximum_of_a_flat_image_takes_the_whole_short_axis():
    values = np.zeros((20, 20, 2))
    values[5:9, 5:9, :] = 1
    assert score("patch_maximum", values, np.zeros((20, 20, 2)), side_voxel=4) == pytest.approx(1)


@pytest.mark.parametrize("axes", [2, 3])
def test_volume_normalised_divides_by_the_predicted_voxels(axes):
    assert score("volume_normalised", np.ones((6,) * axes), square(6, 1, 2, axes)) == 6**axes / 2**axes


def test_volume_normalised_is_the_sum_where_nothing_is_predicted():
    assert score("volume_normalised", np.ones((3, 4)), np.zeros((3, 4))) == 12


def test_refuses_patches_and_margins_that_cannot_be():
    with pytest.raises(BadInputError, match="patch of at least 1 voxel, got 0"):
        score("patch_maximum", np.ones((2, 2)), np.zeros((2, 2)), side_voxel=0)
    with pytest.raises(BadInputError, match="margin of at least 0 voxels, got -1"):
        score("foreground_mean", np.ones((2, 2)), np.ones((2, 2)), margin_voxel=-1)


# --- the contract of every aggregation in the registry -----------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    assert AGGREGATIONS[name].name == name
    assert AGGREGATIONS[name].description.endswith(".")


@pytest.mark.parametrize("shape", [(12, 11), (1, 5), (8, 9, 10), (5, 5, 1)])
@pytest.mark.parametrize("name", ALL)
def test_is_a_finite_number_for_any_prediction_and_zero_without_doubt(name, shape):
    doubt = np.random.default_rng(0).random(shape)
    for labels in (np.zeros(shape), np.ones(shape), np.random.default_rng(1).integers(0, 3, shape)):
        value = score(name, doubt, labels)
        assert type(value) is float
        assert math.isfinite(value)
        assert value > 0
        assert score(name, np.zeros(shape), labels) == 0


@pytest.mark.parametrize("name", ALL)
def test_twice_the_doubt_is_twice_the_score(name):
    doubt = np.random.default_rng(0).random((9, 8, 7))
    labels = square(9, 2, 5, axes=3)[:, :8, :7]
    assert score(name, 2 * doubt, labels) == pytest.approx(2 * score(name, doubt, labels), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_all_axes_are_alike(name):
    rng = np.random.default_rng(0)
    doubt, labels = rng.random((13, 9, 7)), rng.integers(0, 2, (13, 9, 7))
    expected = score(name, doubt, labels)
    for order in ((1, 2, 0), (2, 1, 0), (0, 2, 1)):
        assert score(name, doubt.transpose(order), labels.transpose(order)) == pytest.approx(
            expected, rel=1e-5
        )


@pytest.mark.parametrize("name", ALL)
def test_does_not_change_its_input_and_takes_torch_or_numpy_labels(name):
    doubt = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    field = UncertaintyMap(doubt.clone(), "nat", 1.0)
    labels = square(7, 2, 4)[:6]
    labels.setflags(write=False)
    expected = AGGREGATIONS[name](field, labels)
    assert torch.equal(field.values, doubt)
    as_torch = torch.from_numpy(labels.astype(np.int64))
    assert AGGREGATIONS[name](field, as_torch) == expected
    assert torch.equal(as_torch, torch.from_numpy(square(7, 2, 4)[:6].astype(np.int64)))
    assert AGGREGATIONS[name](field, labels.astype(np.uint16)) == expected


@pytest.mark.parametrize("name", ALL)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpu_says_the_same_as_the_processor(name):
    doubt = torch.rand(20, 21, 22, generator=torch.Generator().manual_seed(0))
    labels = square(22, 5, 15, axes=3)[:20, :21]
    there = AGGREGATIONS[name](UncertaintyMap(doubt.cuda(), "nat", 1.0), labels)
    assert there == pytest.approx(AGGREGATIONS[name](UncertaintyMap(doubt, "nat", 1.0), labels), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_refuses_labels_of_another_shape(name):
    with pytest.raises(BadInputError, match=rf"{name}: the map is \(2, 3\), the labels \(3, 2\)"):
        score(name, np.ones((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 2, 2, 2)])
def test_refuses_what_is_no_image(shape):
    with pytest.raises(BadInputError, match="mean needs a 2D or 3D map with voxels"):
        score("mean", np.ones(shape), np.zeros(shape))


def test_refuses_probabilities_for_labels():
    field = UncertaintyMap(torch.ones(2, 2), "nat", 1.0)
    with pytest.raises(BadInputError, match=r"mean needs class numbers, got torch\.float64; are these prob"):
        AGGREGATIONS["mean"](field, np.zeros((2, 2)))


def test_a_score_that_is_no_number_is_an_error():
    hollow = Aggregation("hollow", "Never finite.", lambda values, labels: float("nan"))
    with pytest.raises(OverreadError, match="hollow gave nan, expected a finite number"):
        hollow(UncertaintyMap(torch.ones(2, 2), "nat", 1.0), np.zeros((2, 2), dtype=np.uint8))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="aggregation 'mean' is registered twice"):

        @aggregation
        def mean(values: torch.Tensor, labels: torch.Tensor) -> float:
            """Another mean."""
            return 0.0
