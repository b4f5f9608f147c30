"""Slides of every kind show their pixels and know their pixel size; what cannot be read is refused in words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from overread.domain import BadInputError, NotFoundError
from overread.domain.slides import PixelSize, Region
from overread.imaging.slides import sources
from overread.imaging.slides.slide import Slide, open_slide, slide_id
from overread.imaging.slides.sources import OpenSlideSource
from overread.imaging.slides.tiff import TiffSource
from support.real_slides import CMU, TCGA, needs_real_slides

PIXELS = np.random.default_rng(4).integers(0, 256, (300, 420, 3)).astype(np.uint8)
QUARTER_UM = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
OME = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25}


def write_levels(path: Path, in_subifds: bool, **options) -> Path:
    """Three levels, each every second pixel of the one before, in SubIFDs or as pages of their own."""
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        tiff.write(PIXELS, subifds=2 if in_subifds else 0, photometric="rgb", **options)
        options.pop("metadata", None)
        for factor in (2, 4):
            tiff.write(PIXELS[::factor, ::factor], subfiletype=1, photometric="rgb", metadata=None, **options)
    return path


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, **({"photometric": "rgb", "metadata": None} | options))
    return path


FLAVOURS = {
    "striped.tif": {"rowsperstrip": 7, **QUARTER_UM},
    "one_strip.tif": QUARTER_UM,
    "lzw.tiff": {"rowsperstrip": 16, "compression": "lzw", "predictor": True, **QUARTER_UM},
    "tiled.tif": {"tile": (64, 96), **QUARTER_UM},
    "deflate.tif": {"tile": (64, 64), "compression": "deflate", **QUARTER_UM},
    "planar.tif": {"planarconfig": "separate", "rowsperstrip": 20, **QUARTER_UM},
    "planar_tiled.tif": {"planarconfig": "separate", "tile": (64, 96), **QUARTER_UM},
    "jpeg2000.tif": {"tile": (64, 64), "compression": "jpeg2000", **QUARTER_UM},
    "inches.tif": {"rowsperstrip": 9, "resolution": (101_600, 101_600), "resolutionunit": "INCH"},
}


@pytest.mark.parametrize("name", FLAVOURS)
def test_plain_tiff_shows_its_pixels_and_its_size(tmp_path: Path, name: str):
    pixels = PIXELS.transpose(2, 0, 1) if name.startswith("planar") else PIXELS
    with open_slide(write(tmp_path / name, pixels, **FLAVOURS[name])) as slide:
        assert slide.size_px == (420, 300)
        assert slide.pixel_size.um == pytest.approx(0.25)
        assert not slide.is_pixel_size_assumed
        np.testing.assert_array_equal(slide.read(slide.bounds, slide.pixel_size), PIXELS)
        region = Region(101, 55, 203, 150)
        np.testing.assert_array_equal(slide.read(region, slide.pixel_size), PIXELS[55:205, 101:304])


@pytest.mark.parametrize("compression", ["jpeg", None])
def test_a_pyramidal_tiff_opens_with_its_levels(tmp_path: Path, compression):
    path = write_levels(tmp_path / "a.tif", False, tile=(64, 64), compression=compression, **QUARTER_UM)
    with open_slide(path) as slide:
        assert slide.downsamples == (1.0, 2.0, 4.0)
        assert slide.pixel_size.um == pytest.approx(0.25)
        if compression is None:
            half = slide.read(slide.bounds, PixelSize(slide.pixel_size.um * 2))
            np.testing.assert_array_equal(half, PIXELS[::2, ::2])
        # OpenSlide would show the same.
        theirs = Slide(path, OpenSlideSource(path), slide.pixel_size)
        region = Region(37, 21, 256, 200)
        np.testing.assert_array_equal(slide.read(region, PixelSize(0.5)), theirs.read(region, PixelSize(0.5)))
        theirs.close()


@pytest.mark.parametrize("tiles", [{"tile": (64, 64)}, {"rowsperstrip": 10}])
def test_an_ome_pyramid_in_subifds_is_read_with_its_levels_and_physical_size(tmp_path: Path, tiles):
    path = write_levels(tmp_path / "b.ome.tif", True, metadata=OME, **tiles)
    with open_slide(path) as slide:
        assert slide.id == "b.ome"
        assert slide.downsamples == (1.0, 2.0, 4.0)
        assert slide.pixel_size == PixelSize(0.25)
        np.testing.assert_array_equal(slide.read(slide.bounds, PixelSize(1.0)), PIXELS[::4, ::4])


def test_a_pyramid_in_strips_keeps_its_levels(tmp_path: Path):
    with open_slide(write_levels(tmp_path / "c.tif", False, rowsperstrip=8, **QUARTER_UM)) as slide:
        assert slide.downsamples == (1.0, 2.0, 4.0)
        np.testing.assert_array_equal(slide.read(slide.bounds, PixelSize(0.5)), PIXELS[::2, ::2])


def test_an_ome_size_may_come_in_another_unit_or_not_at_all(tmp_path: Path):
    in_nm = OME | {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 250.0,
        "PhysicalSizeYUnit": "nm",
    }
    for number, (header, um) in enumerate(
        [(in_nm, 0.25), ({"axes": "YXS"}, None), (OME | {"PhysicalSizeX": 9e9}, 0.25)]
    ):
        path = write(tmp_path / f"{number}.ome.tif", PIXELS, metadata=header)
        with open_slide(path, assumed=PixelSize(0.7)) as slide:
            assert slide.is_pixel_size_assumed == (um is None)
            assert slide.pixel_size.um == pytest.approx(um or 0.7)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_pictures_are_slides_of_assumed_size(tmp_path: Path, name: str):
    smooth = np.asarray(Image.fromarray(PIXELS[:30, :42]).resize((420, 300), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / name, quality=100, subsampling=0)
    with open_slide(tmp_path / name) as slide:
        assert slide.is_pixel_size_assumed
        assert slide.pixel_size == PixelSize(0.5)
        seen = slide.read(slide.bounds, slide.pixel_size)
        assert np.abs(seen.astype(int) - smooth).max() <= (0 if name.endswith("png") else 8)


def test_transparent_is_white(tmp_path: Path):
    rgba = np.dstack([PIXELS, np.full((300, 420), 255, np.uint8)])
    rgba[:, :200, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    write(tmp_path / "b.tif", rgba, rowsperstrip=10, extrasamples=["unassalpha"])
    for name in ("a.png", "b.tif"):
        with open_slide(tmp_path / name) as slide:
            seen = slide.read(slide.bounds, slide.pixel_size)
        assert (seen[:, :200] == 255).all()
        np.testing.assert_array_equal(seen[:, 200:], PIXELS[:, 200:])


def test_grey_pictures_become_rgb_and_inverted_ones_are_set_right(tmp_path: Path):
    grey = PIXELS[..., 0]
    write(tmp_path / "a.tif", grey, photometric="minisblack", rowsperstrip=10)
    write(tmp_path / "b.tif", 255 - grey, photometric="miniswhite", rowsperstrip=10)
    palette = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    write(tmp_path / "c.tif", grey, photometric="palette", colormap=palette, rowsperstrip=10)
    Image.fromarray(grey).save(tmp_path / "d.png")
    for name in ("a.tif", "b.tif", "c.tif", "d.png"):
        with open_slide(tmp_path / name) as slide:
            seen = slide.read(slide.bounds, slide.pixel_size)
        np.testing.assert_array_equal(seen, np.dstack([grey] * 3), err_msg=name)


def test_a_resolution_for_printers_is_not_taken_for_a_microscope(tmp_path: Path):
    write(tmp_path / "a.tif", PIXELS, rowsperstrip=10, resolution=(72, 72), resolutionunit="INCH")
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.is_pixel_size_assumed
        assert slide.pixel_size == PixelSize(0.5)


@needs_real_slides
def test_real_slides_know_their_pixel_size_or_say_that_it_is_assumed():
    with open_slide(CMU) as slide:
        assert (slide.size_px, slide.pixel_size, slide.is_pixel_size_assumed) == (
            (2220, 2967),
            PixelSize(0.499),
            False,
        )
        expected = np.asarray(openslide.OpenSlide(CMU).read_region((600, 900), 0, (300, 200)))[..., :3]
        np.testing.assert_array_equal(slide.read(Region(600, 900, 300, 200), slide.pixel_size), expected)
    with open_slide(TCGA, assumed=PixelSize(0.25)) as slide:
        assert (slide.size_px, slide.pixel_size, slide.is_pixel_size_assumed) == (
            (4443, 3567),
            PixelSize(0.25),
            True,
        )
        assert slide.downsamples == (1.0, 2.0)
        assert slide.thumbnail(500).shape == (401, 500, 3)


@needs_real_slides
def test_both_readers_agree_on_a_real_slide(tmp_path: Path):
    ours, theirs = TiffSource(TCGA), OpenSlideSource(TCGA)
    assert ours.sizes[0] == theirs.sizes[0]
    part = ours.read_block(0, 8, 6)
    block = theirs.read_block(0, 4, 3)
    assert np.abs(part.astype(int) - block[: part.shape[0], : part.shape[1]]).mean() < 1
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ["a.ndpi", "a.scn", "a.bif", "a.svslide", "a.vms", "a.vmu", "a.svs"])
def test_formats_of_scanners_go_to_openslide(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"nothing that a scanner wrote")
    with pytest.raises(BadInputError, match=f"{name} cannot be read: OpenSlide does not recognise it"):
        open_slide(tmp_path / name)


REFUSED = {
    "sixteen.tif": (
        PIXELS.astype(np.uint16),
        {"tile": (64, 64)},
        "3 channels of 16 bits .RGB., expected 8 bits",
    ),
    "float.tif": (
        PIXELS[..., 0] / np.float32(255),
        {"photometric": "minisblack"},
        "1 channels of 32 bits .*expected 8",
    ),
    "cmyk.tif": (
        np.dstack([PIXELS, PIXELS[..., :1]]),
        {"photometric": "separated"},
        ".*SEPARATED., expected grey or RGB",
    ),
    "five.ome.tif": (
        np.zeros((5, 64, 64), np.uint8),
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
        "5 planes in one image, expected one grey or RGB picture",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_of_tiff_are_refused_in_words(tmp_path: Path, name: str):
    pixels, options, words = REFUSED[name]
    path = write(tmp_path / name, pixels, **options)
    with pytest.raises(BadInputError, match=f"{name} holds {words}"):
        open_slide(path)


def test_sixteen_bits_are_refused_as_png(tmp_path: Path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(
        BadInputError, match=r"a.png has pixels of kind I.*, expected 8 bits a channel, grey or RGB"
    ):
        open_slide(tmp_path / "a.png")


def test_what_could_only_be_decoded_at_once_and_is_too_large_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_PIXELS_AT_ONCE", 100_000)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    write(tmp_path / "b.tif", PIXELS, rowsperstrip=300)
    for name in ("a.png", "b.tif"):
        with pytest.raises(
            BadInputError, match=f"{name} has 420 x 300 pixels .* convert it to a tiled pyramidal TIFF"
        ):
            open_slide(tmp_path / name)
    with open_slide(write(tmp_path / "c.tif", PIXELS, rowsperstrip=30)) as slide:
        np.testing.assert_array_equal(slide.read(slide.bounds, slide.pixel_size), PIXELS)


def test_missing_foreign_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"gone\.svs does not exist"):
        open_slide(tmp_path / "gone.svs")
    for name, words in (
        ("a.xml", "a.xml is no slide; slides end in .svs"),
        ("a.tif", "a.tif cannot be read"),
        ("a.png", "a.png cannot be read"),
    ):
        (tmp_path / name).write_bytes(b"<x/>")
        with pytest.raises(BadInputError, match=re.escape(words)):
            open_slide(tmp_path / name)


def test_damage_within_a_slide_is_named_when_it_is_met(tmp_path: Path):
    path = write(tmp_path / "a.tif", PIXELS, rowsperstrip=30, compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"damaged here")
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(BadInputError, match=r"a\.tif is damaged at strip or tile 0"):
                slide.read(Region(0, 0, 10, 10), slide.pixel_size)
    whole = tmp_path / "b.png"
    Image.fromarray(PIXELS).save(whole)
    whole.write_bytes(whole.read_bytes()[:5000])
    with open_slide(whole) as slide, pytest.raises(BadInputError, match=r"b\.png cannot be read"):
        slide.thumbnail()


def test_damage_is_named_by_openslide_s_readers_too(tmp_path: Path):
    path = write_levels(tmp_path / "a.tif", False, tile=(64, 64), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\0" * 200)
    # As of a file that a scanner wrote.
    with (
        Slide(path, OpenSlideSource(path), PixelSize(0.5)) as slide,
        pytest.raises(BadInputError, match=r"a\.tif is damaged on level 0 at x 0, y 0"),
    ):
        slide.read(Region(0, 0, 10, 10), slide.pixel_size)


def test_an_ome_header_that_is_an_attack_or_broken_is_refused(tmp_path: Path):
    for name, header in (
        ("bomb", '<!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>'),
        ("broken", "<OME><Pixels></OME>"),
    ):
        path = write(tmp_path / f"{name}.ome.tif", PIXELS, rowsperstrip=30, description=header)
        with pytest.raises(BadInputError, match=f"{name}.ome.tif has an OME header that is no XML"):
            open_slide(path)


@pytest.mark.parametrize(
    ("name", "name_in_qupath"), [("a.svs", "a"), ("a.b.tiff", "a.b"), ("c.ome.tif", "c.ome"), ("D.MRXS", "D")]
)
def test_ids_are_those_that_qupath_makes(name: str, name_in_qupath: str):
    assert slide_id(Path("/slides") / name) == name_in_qupath
