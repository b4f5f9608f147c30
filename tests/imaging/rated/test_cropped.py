"""Cases cut to what their raters marked: every rater, every axis, and where the cut lies is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.domain import Grid
from overread.imaging.rated import RatedImage, read_rated
from overread.imaging.rated.cropped import cropped, cut_out
from support.rated import disc, write_picture, write_rated


def marked(shape: tuple[int, ...], *places: tuple[int, ...], grid: Grid | None = None) -> RatedImage:
    """An image whose values tell the place, and raters who each marked one voxel."""
    masks = np.zeros((max(1, len(places)), *shape), bool)
    for rater, place in enumerate(places):
        masks[(rater, *place)] = True
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    return RatedImage(image, masks, tuple("abcd"[: len(masks)]), None, grid)


def test_the_cut_lies_about_all_that_anybody_marked():
    before = marked((40, 30), (10, 12), (14, 18))
    after = cut_out(before, 16)
    np.testing.assert_array_equal(after.image, before.image[:, 4:20, 7:23])
    np.testing.assert_array_equal(after.masks, before.masks[:, 4:20, 7:23])
    assert after.raters == before.raters


def test_at_a_border_it_stays_inside_and_small_axes_stay_whole():
    before = marked((40, 12), (0, 11))
    after = cut_out(before, 16)
    np.testing.assert_array_equal(after.image, before.image[:, :16, :])
    assert after.masks.sum() == 1


def test_where_nobody_marked_anything_it_is_the_middle():
    before = marked((40, 40))
    np.testing.assert_array_equal(cut_out(before, 10).image, before.image[:, 15:25, 15:25])


def test_a_volume_stays_where_it_lies():
    affine = np.array([[0, 2.0, 0, 5], [-3.0, 0, 0, 7], [0, 0, 4.0, 9], [0, 0, 0, 1]])
    before = marked((20, 20, 20), (12, 6, 10), grid=Grid((20, 20, 20), affine))
    after = cut_out(before, 8)
    (_, *inside), (_, *outside) = np.argwhere(after.masks)[0], np.argwhere(before.masks)[0]
    assert after.grid is not None
    assert after.grid.shape == (8, 8, 8)
    np.testing.assert_allclose(after.grid.affine @ [*inside, 1], affine @ [*outside, 1])


def test_a_data_set_is_cut_as_it_is_read_and_its_faults_stay_faults(tmp_path: Path):
    shape = (24, 20)
    picture = np.arange(480, dtype=np.uint8).reshape(shape) % 200
    write_rated(tmp_path, {"one": {"a": disc(shape, (6, 6), 2), "b": disc(shape, (8, 6), 2)}}, picture)
    whole = read_rated(tmp_path)
    small = cropped(whole, 12)
    assert small.name == whole.name
    assert [case.raters for case in small.cases] == [("a", "b")]
    read = small.cases[0].read()
    assert read.masks.shape == (2, 12, 12)
    assert read.masks.sum() == whole.cases[0].read().masks.sum()
    write_picture(tmp_path / "masks" / "one_a.png", np.zeros((3, 3), np.uint8))
    assert small.cases[0].examine().faults == whole.cases[0].examine().faults
    assert small.cases[0].examine().faults
