"""Candidates lie on a grid of a quarter patch, inside the slide, on tissue, and are scored by what lies in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overread.domain import BadInputError, PixelSize, Region
from overread.queue.patches.candidates import (
    default_patch_px,
    patch_table,
    patch_within,
    without_overlap,
)
from overread.queue.patches.sums import Boxes
from support.slide_maps import blank, some_maps


def test_candidates_lie_a_quarter_patch_apart_and_the_last_ends_with_the_slide():
    # 20 x 10 cells are 160 x 80 pixels.
    table = patch_table("slide", some_maps(blank(10, 20)), (64, 32))
    assert table.xs.tolist() == [0, 16, 32, 48, 64, 80, 96]
    assert table.ys.tolist() == [0, 8, 16, 24, 32, 40, 48]
    assert len(table) == 49
    assert table.region(48) == Region(96, 48, 64, 32)
    odd = patch_table("slide", some_maps(blank(10, 20)), (50, 50))
    assert odd.xs.tolist() == [0, 12, 25, 38, 50, 62, 75, 88, 100, 110]


def test_a_candidate_knows_the_mean_doubt_of_its_tissue_not_of_the_glass_beside_it():
    doubt, tissue = blank(8, 16), np.zeros((8, 16), bool)
    doubt[:, :4], tissue[:, :4] = 0.5, True
    # Beyond tissue nothing is believed.
    doubt[:, 8:] = 0.9
    table = patch_table("slide", some_maps(doubt, tissue=tissue), (64, 64))
    # Patches start at columns 0, 2, 4 of cells …; from column 4 on none has tissue.
    assert [table.region(n).x for n in range(len(table))] == [0, 16]
    assert table.tissue.tolist() == [0.5, 0.25]
    assert table.doubt.tolist() == [0.5, 0.5]


def test_a_patch_with_less_than_a_tenth_of_tissue_is_no_candidate():
    tissue = np.zeros((8, 8), bool)
    tissue[0, :6] = True
    assert len(patch_table("slide", some_maps(blank(8, 8), tissue=tissue), (64, 64))) == 0
    tissue[0, 6] = True
    assert len(patch_table("slide", some_maps(blank(8, 8), tissue=tissue), (64, 64))) == 1


def test_what_was_looked_at_by_less_than_half_is_not_scored():
    known = np.zeros((8, 16), bool)
    known[:, :4] = True
    doubt = blank(8, 16) + 0.25
    table = patch_table("slide", some_maps(doubt, known=known), (64, 64))
    assert table.doubt.tolist()[0] == 0.25
    assert np.isnan(table.doubt[1:]).all()
    assert np.isnan(table.foreground_mm2[1:]).all()


def test_predicted_area_and_doubt_are_kept_for_each_class():
    classes = ("background", "Tumor", "Gland")
    predicted = np.zeros((8, 8), int)
    predicted[:2], predicted[2:6] = 1, 2
    class_doubt = np.stack([blank(8, 8) + 0.1, blank(8, 8) + 0.2])
    maps = some_maps(blank(8, 8) + 0.3, predicted=predicted, class_doubt=class_doubt, classes=classes)
    table = patch_table("slide", maps, (64, 64))
    assert table.classes == ("Tumor", "Gland")
    # 16 and 32 cells of 64 µm².
    np.testing.assert_allclose(table.foreground_mm2, [[16 * 64e-6, 32 * 64e-6]], rtol=1e-6)
    np.testing.assert_allclose(table.class_doubt, [[0.1, 0.2]], rtol=1e-3)


@pytest.mark.parametrize(("cells", "counts"), [(1, False), (2, True)])
def test_in_a_small_patch_a_structure_may_be_smaller_than_a_large_ones_speck(cells: int, counts: bool):
    predicted = np.zeros((8, 8), int)
    predicted[0, :cells] = 1
    table = patch_table("slide", some_maps(blank(8, 8) + 0.3, predicted=predicted), (64, 64))
    # A fiftieth of 64 cells of 64 µm²; one cell is less, two are more.
    assert table.speck_mm2 == pytest.approx(64 * 64e-6 / 50)
    assert table.shows_foreground(table.region(0)) is counts


def test_without_a_model_there_are_candidates_and_no_scores():
    table = patch_table("slide", some_maps(blank(8, 16), classes=("background",), drawn=[]), (64, 64))
    assert len(table) == 5
    assert np.isnan(table.doubt).all()
    assert table.class_doubt.shape == (5, 0)


def test_free_are_those_that_share_no_pixel_with_what_is_occupied():
    table = patch_table("slide", some_maps(blank(8, 24)), (64, 64))
    xs = table.xs[table.columns]
    assert xs[table.free([Region(64, 0, 64, 64)])].tolist() == [0, 128]
    # One pixel is enough, and touching edges share none.
    assert xs[table.free([Region(63, 10, 1, 1)])].tolist() == [64, 80, 96, 112, 128]
    assert xs[table.free([Region(64, 63, 1, 5)])].tolist() == [0, 80, 96, 112, 128]
    assert table.free([Region(64, 64, 64, 64)]).all()
    assert table.free([]).all()


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(9, 150), st.integers(9, 150)),
    st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(1, 90), st.integers(1, 90)),
)
def test_freedom_agrees_with_the_regions_themselves(patch, box):
    table = patch_table("slide", some_maps(blank(13, 21)), patch)
    taken, whole = Region(*box), Region(0, 0, 168, 104)
    regions = [table.region(index) for index in range(len(table))]
    assert table.free([taken]).tolist() == [not region.overlaps(taken) for region in regions]
    assert all(whole.contains(region) for region in regions)


def test_the_highest_are_taken_without_overlap():
    doubt = blank(8, 40)
    # A broad hill whose neighbours would all come before the small one.
    doubt[:, 8:20] = 0.6
    doubt[:, 30:38] = 0.2
    table = patch_table("slide", some_maps(doubt), (64, 64))
    regions = [table.region(row) for row in without_overlap(table, table.doubt, 3)]
    assert regions[0].x == 64
    assert regions[1].x == 128
    assert regions[2].x == 240
    assert len(without_overlap(table, table.doubt, 99)) == 4
    assert without_overlap(table, np.full(len(table), np.nan), 2) == []


def test_sums_over_rectangles_are_those_of_the_cells_in_them():
    rng = np.random.default_rng(0)
    field = rng.uniform(0, 1, (13, 21)).astype(np.float16)
    maps = some_maps(field)
    xs, ys = np.array([0, 16, 40, 104]), np.array([0, 8, 40])
    sums = Boxes.of(maps, xs, ys, (64, 64)).sums(field)
    for row, y in enumerate(ys // 8):
        for column, x in enumerate(xs // 8):
            expected = field[y : y + 8, x : x + 8].sum(dtype=np.float64)
            np.testing.assert_allclose(sums[row, column], expected)


def test_a_patch_larger_than_the_slide_is_the_slide_and_an_empty_one_is_refused():
    assert patch_within((500, 300), (1024, 256)) == (500, 256)
    table = patch_table("slide", some_maps(blank(8, 16)), (1000, 1000))
    assert [table.region(row) for row in range(len(table))] == [Region(0, 0, 128, 64)]
    with pytest.raises(BadInputError, match="a patch of 0 x 64 pixels is empty"):
        patch_within((500, 300), (0, 64))


def test_the_default_patch_is_a_millimetre_and_less_on_a_small_slide():
    assert default_patch_px((100_000, 80_000), PixelSize(0.25)) == (4096, 4096)
    assert default_patch_px((4000, 2000), PixelSize(0.5)) == (500, 500)
    assert default_patch_px((600, 400), PixelSize(0.5)) == (256, 256)
    assert default_patch_px((600, 200), PixelSize(0.5)) == (200, 200)
