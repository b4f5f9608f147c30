"""The slides of a folder are found whatever lies beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from overread.domain import NotFoundError
from overread.domain.slides import PixelSize
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.slide import find_slides

PIXELS = np.random.default_rng(2).integers(0, 256, (300, 400, 3)).astype(np.uint8)


def test_every_kind_is_found_and_nothing_else(tmp_path: Path):
    for name in ("a.tiff", "b.tif", "c.ome.tif"):
        write_pyramid(tmp_path / name, PIXELS, PixelSize(0.5))
    Image.fromarray(PIXELS).save(tmp_path / "d.png")
    for name in ("b.xml", "b.csv", "d.json", "datastore_v2.json", ".hidden.tif", "._b.tif"):
        (tmp_path / name).write_text("<x/>")
    (tmp_path / "labels").mkdir()
    write_pyramid(tmp_path / "labels" / "e.tif", PIXELS, PixelSize(0.5))
    found = find_slides(tmp_path)
    assert list(found.slides) == ["a", "b", "c.ome", "d"]
    assert found.slides["b"] == tmp_path / "b.tif"
    assert found.problems == []


def test_what_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path):
    write_pyramid(tmp_path / "b.tif", PIXELS, PixelSize(0.5))
    for name in ("a.svs", "c.ndpi", "d.mrxs"):
        (tmp_path / name).write_bytes(b"no slide")
    tifffile.imwrite(tmp_path / "e.tif", PIXELS.astype(np.uint16), photometric="rgb")
    found = find_slides(tmp_path)
    assert list(found.slides) == ["b"]
    assert [problem.split(" ")[0].rsplit("/")[-1] for problem in found.problems] == [
        "a.svs",
        "c.ndpi",
        "d.mrxs",
        "e.tif",
    ]


def test_of_two_files_of_one_slide_the_better_format_is_read(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    write_pyramid(tmp_path / "a.tif", PIXELS, PixelSize(0.5))
    found = find_slides(tmp_path)
    assert found.slides == {"a": tmp_path / "a.tif"}
    assert sorted(found.problems) == [
        "a.jpg is left out: a.tif is the same slide by its name",
        "a.png is left out: a.jpg is the same slide by its name",
    ]


def test_folders_and_parts_of_slides_are_no_slides(tmp_path: Path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "folder.tif").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "v(1,0).jpg")
    (tmp_path / "v.vms").write_text("[Virtual Microscope Specimen]\nImageFile(1,0)=v(1,0).jpg\n")
    found = find_slides(tmp_path)
    assert found.slides == {}
    assert [problem.split(" ")[0] for problem in found.problems] == [str(tmp_path / "v.vms")]


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"still being copied")
    assert find_slides(tmp_path).slides == {}
    write_pyramid(path, PIXELS, PixelSize(0.5))
    assert list(find_slides(tmp_path).slides) == ["a"]
    path.write_bytes(b"gone wrong")
    os.utime(path, ns=(1, 1))
    assert find_slides(tmp_path).slides == {}


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="nowhere does not exist or is no folder"):
        find_slides(tmp_path / "nowhere")
