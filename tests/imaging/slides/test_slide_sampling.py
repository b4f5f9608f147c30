"""A place on a slide stays where it is at every pixel size, and neighbouring reads fit each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from overread.domain.slides import PixelSize, Region
from overread.imaging.slides import sampling
from overread.imaging.slides.blocks import BlockCache
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.slide import Slide, open_slide
from support.real_slides import TCGA, needs_real_slides

UM = 0.25
DOT = Region(1200, 700, 64, 96)


def picture(width: int = 2051, height: int = 1303) -> np.ndarray:
    """White with one black rectangle and a grey lower right border; odd in both directions."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[DOT.y : DOT.bottom, DOT.x : DOT.right] = 0
    pixels[-40:] = pixels[:, -40:] = 60
    return pixels


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "noise.tif"
    pixels = np.random.default_rng(1).integers(0, 256, (1303, 2051, 3)).astype(np.uint8)
    write_pyramid(path, pixels, PixelSize(UM))
    return path


@pytest.fixture(scope="module", params=["pyramid", "flat"])
def dotted(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / f"{request.param}.tif"
    if request.param == "pyramid":
        write_pyramid(path, picture(), PixelSize(UM))
    else:
        edge = (1e4 / UM, 1e4 / UM)
        tifffile.imwrite(
            path, picture(), photometric="rgb", rowsperstrip=64, resolution=edge, resolutionunit="CENTIMETER"
        )
    return path


def centre_um(slide: Slide, region: Region, at: PixelSize) -> tuple[float, float]:
    """Where the dot's middle is seen, µm from the slide's corner."""
    darkness = 255.0 - slide.read(region, at)[..., 0]
    rows, columns = darkness.shape
    across = (np.arange(columns) + 0.5) * region.width / columns + region.x
    down = (np.arange(rows) + 0.5) * region.height / rows + region.y
    total = darkness.sum()
    return (darkness.sum(axis=0) @ across) / total * UM, (darkness.sum(axis=1) @ down) / total * UM


@pytest.mark.parametrize("um", [0.2, 0.25, 0.4, 0.5, 0.7, 1.0, 1.3, 2.0, 4.0, 8.0])
def test_a_dot_stays_at_its_place_at_every_pixel_size(dotted: Path, um: float):
    with open_slide(dotted) as slide:
        x, y = centre_um(slide, Region(900, 500, 803, 601), PixelSize(um))
    # A tenth of a pixel of what is read; OpenSlide keeps to half a pixel of the slide.
    assert x == pytest.approx(DOT.centre[0] * UM, abs=max(um / 10, UM / 2))
    assert y == pytest.approx(DOT.centre[1] * UM, abs=max(um / 10, UM / 2))


@pytest.mark.parametrize("um", [0.25, 0.5, 1.0, 2.0])
def test_two_halves_are_the_same_pixels_as_the_whole(noise: Path, um: float):
    with open_slide(noise) as slide:
        whole = slide.read(Region(64, 128, 1024, 512), PixelSize(um))
        halves = [slide.read(Region(64 + shift, 128, 512, 512), PixelSize(um)) for shift in (0, 512)]
        quarters = [slide.read(Region(64, 128 + shift, 1024, 256), PixelSize(um)) for shift in (0, 256)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    np.testing.assert_array_equal(np.concatenate(quarters, axis=0), whole)


def test_halves_fit_also_where_a_pixel_is_no_whole_number_of_the_slide_s(noise: Path):
    with open_slide(noise) as slide:
        whole = slide.read_into(Region(0, 0, 1200, 600), (500, 250)).astype(int)
        halves = [slide.read_into(Region(x, 0, 600, 600), (250, 250)) for x in (0, 600)]
    assert np.abs(np.concatenate(halves, axis=1) - whole).max() <= 1


def test_a_large_read_in_parts_is_the_read_at_once(noise: Path, monkeypatch):
    with open_slide(noise) as slide:
        at_once = slide.read(slide.bounds, PixelSize(0.6)).astype(int)
    monkeypatch.setattr(sampling, "MOST_LEVEL_PX", 40_000)
    with open_slide(noise) as slide:
        assert np.abs(slide.read(slide.bounds, PixelSize(0.6)) - at_once).max() <= 1


def test_beyond_the_slide_is_white_and_its_border_is_not_blended_with_it(dotted: Path):
    with open_slide(dotted) as slide:
        beyond = slide.read(Region(-200, -100, 100, 50), PixelSize(1.0))
        assert beyond.shape == (12, 25, 3)
        assert (beyond == 255).all()
        whole = slide.read(slide.bounds, PixelSize(1.0))
        # 2051 and 1303 pixels are no multiples of 4: the last pixel is still of the slide.
        assert whole.shape == (326, 513, 3)
        # To within the rounding of what OpenSlide gives back for a part of a pixel.
        assert np.abs(whole[-9:].astype(int) - 60).max() <= 1
        assert np.abs(whole[:, -9:].astype(int) - 60).max() <= 1
        over = slide.read(Region(2000, 1200, 200, 200), slide.pixel_size)
        assert (over[:103, :51][-40:] == 60).all()
        assert (over[103:] == 255).all()
        assert (over[:, 51:] == 255).all()


def test_the_level_that_is_just_fine_enough_is_read(noise: Path):
    with open_slide(noise) as slide:
        assert slide.downsamples == (1.0, 2.0, 4.0, 8.0, 16.0)
        asked = []
        read_block = slide._source.read_block
        slide._source.read_block = lambda level, column, row: (
            asked.append(level) or read_block(level, column, row)
        )
        for um, level in [
            (0.1, 0),
            (0.25, 0),
            (0.49, 1),
            (0.45, 0),
            (1.0, 2),
            (1.9, 2),
            (2.0, 3),
            (100.0, 4),
        ]:
            asked.clear()
            slide._sampler._blocks.clear()
            slide.read(Region(0, 0, 512, 512), PixelSize(um))
            assert set(asked) == {level}, f"{um} µm"


def test_threads_read_what_one_reads_and_decode_each_block_once(noise: Path):
    regions = [Region(x, y, 512, 512) for x in range(0, 1500, 128) for y in range(0, 700, 128)]
    with open_slide(noise) as slide:
        expected = [slide.read(region, slide.pixel_size) for region in regions]
    with open_slide(noise) as slide, ThreadPoolExecutor(4) as threads:
        asked = []
        read_block = slide._source.read_block
        slide._source.read_block = lambda *place: asked.append(place) or read_block(*place)
        seen = list(threads.map(lambda region: slide.read(region, slide.pixel_size), regions))
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(asked) == len(set(asked))


def test_kept_blocks_stay_within_their_bound(noise: Path):
    with open_slide(noise) as slide:
        block = 512 * 512 * 3
        kept = BlockCache(slide._source, kept_bytes=2 * block)
        target = np.empty((1303, 2051, 3), np.uint8)
        kept.paste(0, (0, 0, 2051, 1303), target)
        assert kept._bytes <= 2 * block
        assert sum(one.result().nbytes for one in kept._kept.values()) == kept._bytes
        np.testing.assert_array_equal(target, slide.read(slide.bounds, slide.pixel_size))


def test_at_least_one_pixel_comes_back(noise: Path):
    with open_slide(noise) as slide:
        assert slide.read(Region(3, 4, 1, 1), PixelSize(50.0)).shape == (1, 1, 3)
        assert slide.thumbnail(100).shape == (64, 100, 3)
        assert slide.thumbnail(10_000).shape == (1303, 2051, 3)


@needs_real_slides
@pytest.mark.parametrize("axis", [0, 1])
def test_levels_of_a_real_slide_lie_on_each_other_to_the_far_edge(axis: int):
    """4443 pixels over 2221 are taken for 2 by 2, not for 2.0005, which would be off by two pixels at the edge."""
    with open_slide(TCGA) as slide:
        region = Region(3600, 2600, 512, 512)
        fine = slide.read(region, slide.pixel_size).astype(float)
        coarse = slide.read(region, PixelSize(slide.pixel_size.um * 2)).astype(float)
    fine = fine.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    before, here, after = (
        np.square(np.roll(coarse, by, axis) - fine)[8:-8, 8:-8].mean() for by in (-1, 0, 1)
    )
    # Where the parabola through the three errors is lowest, in pixels of the coarse level: half a fine one at most.
    assert abs(before - after) / (before - 2 * here + after) / 2 < 0.25
