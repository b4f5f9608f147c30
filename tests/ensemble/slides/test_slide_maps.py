"""Maps of a slide know which cell lies where, and survive the disk whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, NotFoundError, Region
from overread.ensemble.slides.maps import SlideMaps
from support.slides import grey, red_cuts, slide_of, tissue_of


@pytest.fixture
def maps(tmp_path: Path) -> SlideMaps:
    slide = slide_of(tmp_path / "slide.tif", grey(np.zeros((100, 150))), um=0.5)
    mask = np.zeros((7, 10), bool)
    mask[2, 3] = True
    return SlideMaps.empty(slide, red_cuts(tmp_path / "red", offsets=(0, 1, 2)), tissue_of(slide, mask))


def test_before_anything_is_said_all_is_background_without_doubt(maps: SlideMaps) -> None:
    assert maps.shape == (7, 10)
    assert maps.pairs == ((0, 1), (0, 2), (1, 2))
    assert maps.tissue[2, 3]
    assert maps.tissue.sum() == 1
    assert not maps.known.any()
    assert (maps.probability[0] == 1).all()
    assert maps.sizes.shape == (3, 1, 7, 10)
    assert maps.overlaps.shape == (3, 1, 7, 10)
    assert set(maps.maps) == {"predictive_entropy", "mutual_information", "member_cross_entropy"}
    assert all((values == 0).all() for values in maps.maps.values())


def test_a_region_touches_its_cells_and_cells_cover_their_region(maps: SlideMaps) -> None:
    # Cells are 16 pixels of 0.5 µm.
    assert maps.cells(Region(16, 32, 16, 17)) == (slice(2, 4), slice(1, 2))
    assert maps.cells(Region(1000, 0, 5, 5))[1] == slice(10, 10)
    assert maps.region_of((slice(2, 4), slice(1, 2))) == Region(16, 32, 16, 32)
    assert maps.region_of((slice(6, 7), slice(9, 10))) == Region(144, 96, 6, 4)
    with pytest.raises(BadInputError, match="empty"):
        maps.region_of((slice(3, 3), slice(0, 1)))


def test_what_was_saved_is_loaded(maps: SlideMaps, tmp_path: Path) -> None:
    maps.maps["predictive_entropy"][2, 3] = 0.5
    maps.known[2, 3] = True
    maps.is_coarse = True
    path = tmp_path / "maps" / "maps.npz"
    maps.save(path)
    again = SlideMaps.load(path)
    for name in ("slide_size_px", "slide_pixel_size", "cell", "classes", "is_coarse", "pairs"):
        assert getattr(again, name) == getattr(maps, name)
    for name in ("tissue", "known", "probability", "class_doubt", "sizes", "overlaps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(maps, name))
    for name, values in maps.maps.items():
        np.testing.assert_array_equal(again.maps[name], values)
    assert [file.name for file in path.parent.iterdir()] == ["maps.npz"]


def test_maps_know_by_which_doubt_is_asked_and_those_of_earlier_versions_by_all(
    maps: SlideMaps, tmp_path: Path
) -> None:
    path = tmp_path / "maps.npz"
    replace(maps, asked_by="expected_entropy").save(path)
    assert SlideMaps.load(path).asked_by == "expected_entropy"
    with np.load(path) as stored:
        fields = dict(stored)
    header = json.loads(str(fields["header"]))
    del header["asked_by"]
    np.savez(path, **{**fields, "header": np.array(json.dumps(header))})
    assert SlideMaps.load(path).asked_by == "predictive_entropy"


def test_a_missing_a_damaged_and_a_strange_file_are_named(maps: SlideMaps, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no maps"):
        SlideMaps.load(tmp_path / "none.npz")
    path = tmp_path / "maps.npz"
    maps.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInputError, match="damaged"):
        SlideMaps.load(path)
    np.savez(path, header=np.array(json.dumps({"format": 99})))
    with pytest.raises(BadInputError, match="format 99, this version reads 1"):
        SlideMaps.load(path)
