"""Windows cover every voxel, and interpolation slab by slab is interpolation of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from overread.imaging.windows import AxisInterpolation, gaussian_weight, padding_to, window_starts


@given(st.integers(1, 300), st.integers(1, 80), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_windows_cover_the_axis_no_further_apart_than_the_step(size, patch, step):
    starts = window_starts(size, patch, step)
    assert starts[0] == 0
    if size <= patch:
        assert starts == [0]
        return
    assert starts[-1] == size - patch
    gaps = np.diff(starts)
    assert gaps.min() >= 0
    # Even spacing is rounded to whole voxels.
    assert gaps.max() <= patch * step + 1


def test_windows_of_half_a_patch_known_by_hand():
    assert window_starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert window_starts(11, 4, 0.5) == [0, 2, 4, 5, 7]


def test_the_weight_is_largest_in_the_middle_and_never_zero():
    weight = gaussian_weight((8, 6))
    assert weight.shape == (8, 6)
    assert weight[4, 3] == 1
    assert weight.argmax() == 4 * 6 + 3
    assert weight.min() > 0
    # Four voxels from the middle of an edge of 8 are four standard deviations.
    assert weight[0, 3] == pytest.approx(np.exp(-8))


def test_padding_puts_the_image_in_the_middle():
    assert padding_to((3, 8), (6, 4)) == [(1, 2), (0, 0)]


@given(st.integers(1, 30), st.integers(1, 40))
def test_linear_equals_scipys_zoom_on_grid_cells(size_in, size_out):
    values = np.random.default_rng(size_in * 41 + size_out).normal(size=size_in)
    expected = ndimage.zoom(values, size_out / size_in, order=1, mode="nearest", grid_mode=True)
    ours = AxisInterpolation(size_in, size_out, "linear")(torch.from_numpy(values), 0)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from(["linear", "nearest"]), st.data())
def test_slab_by_slab_equals_the_whole(size_in, size_out, mode, data):
    path = AxisInterpolation(size_in, size_out, mode)
    values = torch.randn(size_in, generator=torch.Generator().manual_seed(size_in))
    whole = path(values, 0)
    arrived = data.draw(st.integers(0, size_in))
    there = path.outputs_from(arrived)
    if there:
        first = int(path.low[0])
        torch.testing.assert_close(path(values[first:arrived], 0, slice(0, there), first), whole[:there])
    assert path.outputs_from(size_in) == size_out


def test_nearest_repeats_samples():
    path = AxisInterpolation(2, 6, "nearest")
    assert path(torch.tensor([5.0, 7.0]), 0).tolist() == [5, 5, 5, 7, 7, 7]
