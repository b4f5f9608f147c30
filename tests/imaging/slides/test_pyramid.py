"""Pictures that are written open in slide viewers, with levels and pixel size, or are not there at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.domain.slides import PixelSize
from overread.imaging.slides.pyramid import write_pyramid, write_thumbnail
from overread.imaging.slides.slide import open_slide

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(1001, 1303, 3), (1001, 1303), (512, 256), (5, 3), (3000, 1)])
def test_openslide_opens_it_with_its_levels_and_pixel_size(tmp_path: Path, shape):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    write_pyramid(tmp_path / "maps" / "a.tif", pixels, PixelSize(8.0))
    with openslide.OpenSlide(tmp_path / "maps" / "a.tif") as slide:
        assert slide.dimensions == (shape[1], shape[0])
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(8.0, rel=1e-4)
        sizes = [(shape[1], shape[0])]
        while max(sizes[-1]) > 256:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        assert list(slide.level_dimensions) == sizes
        seen = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(seen, pixels if pixels.ndim == 3 else np.dstack([pixels] * 3))
    with open_slide(tmp_path / "maps" / "a.tif") as slide:
        assert slide.pixel_size.um == pytest.approx(8.0, rel=1e-4)


def test_levels_are_means(tmp_path: Path):
    pixels = np.zeros((400, 601), np.uint8)
    pixels[:, ::2] = 200
    write_pyramid(tmp_path / "a.tif", pixels, PixelSize(1.0))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.downsamples[:2] == (1.0, 2.0)
        half = slide.read(slide.bounds, PixelSize(2.0))
    assert (half[:, :-2] == 100).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_thumbnails_are_pictures(tmp_path: Path, name: str):
    pixels = np.full((30, 50, 3), (200, 120, 160), np.uint8)
    write_thumbnail(tmp_path / name, pixels)
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (50, 30)
        assert np.abs(np.asarray(picture).astype(int) - pixels).max() < 4


def test_what_is_no_picture_is_refused_and_leaves_nothing(tmp_path: Path):
    good = np.zeros((40, 40, 3), np.uint8)
    for bad in (good.astype(np.float32), good[None], good[..., :2], good[:0]):
        with pytest.raises(BadInputError, match=r"is no picture, expected \(rows, columns\[, 3\]\) of uint8"):
            write_pyramid(tmp_path / "a.tif", bad, PixelSize(1.0))
    with pytest.raises(BadInputError, match="tiles of 100 pixels cannot be written to a TIFF"):
        write_pyramid(tmp_path / "a.tif", good, PixelSize(1.0), tile=100)
    with pytest.raises(BadInputError, match=r"a\.gif cannot be written: thumbnails end in"):
        write_thumbnail(tmp_path / "a.gif", good)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    write_pyramid(tmp_path / "a.tif", np.zeros((40, 40), np.uint8), PixelSize(1.0))
    before = (tmp_path / "a.tif").read_bytes()

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("tifffile.TiffWriter.write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_pyramid(tmp_path / "a.tif", np.ones((40, 40), np.uint8), PixelSize(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before
