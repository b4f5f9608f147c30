"""Windows lie on one lattice: their cores tile the slide, and which of them touch an interval is known exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from overread.domain import PixelSize, Region
from overread.ensemble.slides.lattice import Axis, Lattice

AXES = st.builds(
    lambda size, patch, share, cell: Axis(size, patch, max(1, round(patch * share)), cell),
    st.integers(1, 300),
    st.integers(1, 64),
    st.floats(0.1, 1.0),
    st.floats(1.0, 40.0),
)


@given(AXES)
def test_every_pixel_is_in_the_core_of_one_window_that_holds_it(axis: Axis) -> None:
    pixels = np.arange(axis.size)
    windows = axis.cores_of(pixels)
    for window in range(axis.count):
        low, high = axis.core(window)
        np.testing.assert_array_equal(pixels[windows == window], np.arange(low, high))
        assert window * axis.stride <= low
        assert high <= window * axis.stride + axis.patch


@given(AXES, st.integers(0, 299), st.integers(1, 100))
def test_the_windows_that_touch_an_interval_are_those_that_share_a_pixel(
    axis: Axis, low: int, length: int
) -> None:
    low = min(low, axis.size - 1)
    high = min(low + length, axis.size)
    sharing = [
        window
        for window in range(axis.count)
        if window * axis.stride < high and window * axis.stride + axis.patch > low
    ]
    assert list(axis.touching(low, high)) == sharing


@given(AXES)
def test_a_cell_begins_at_its_first_pixel(axis: Axis) -> None:
    cells = axis.cells_of(np.arange(axis.size))
    for cell in np.unique(cells):
        assert axis.first_pixel(int(cell)) == np.flatnonzero(cells == cell)[0]
    assert axis.first_pixel(int(cells[-1]) + 1) == axis.size


def test_a_region_goes_out_to_whole_pixels_and_ends_with_the_slide() -> None:
    lattice = Lattice.over((101, 50), PixelSize(0.5), PixelSize(1.0), (16, 16), 0.5, PixelSize(8))
    assert (lattice.x.size, lattice.y.size) == (51, 25)
    assert lattice.pixels_of(Region(3, 4, 4, 4)) == (1, 2, 4, 4)
    assert lattice.pixels_of(Region(90, 40, 500, 500)) == (45, 20, 51, 25)


def test_a_window_counts_the_tissue_of_its_core_alone() -> None:
    lattice = Lattice.over((64, 64), PixelSize(1.0), PixelSize(1.0), (32, 32), 0.5, PixelSize(8))
    tissue = np.zeros((8, 8), bool)
    tissue[3, 2] = True
    shares = lattice.tissue_in_cores(tissue)
    # Cores along an axis: pixels 0-23, 24-39, 40-63, that is cells 0-2, 3-4, 5-7.
    np.testing.assert_allclose(shares, [[0, 0, 0], [1 / 6, 0, 0], [0, 0, 0]])
