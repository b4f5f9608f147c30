"""Stained tissue is found; glass, ink and dirt are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.slide import open_slide
from overread.imaging.slides.tissue import TissueMask, find_tissue
from support.real_slides import CMU, TCGA, needs_real_slides

# At 2 µm a pixel a cell of 8 µm is 4 pixels.
AT = PixelSize(2.0)
GLASS = (243, 241, 244)
EOSIN, PALE, HAEMATOXYLIN, BLUISH = (225, 140, 180), (238, 205, 222), (120, 70, 150), (133, 127, 191)
INKS = {
    "blue": (30, 60, 190),
    "navy": (25, 20, 160),
    "green": (20, 140, 70),
    "black": (25, 25, 30),
    "red": (205, 25, 35),
}


def mask_of(tmp_path: Path, draw, size: tuple[int, int] = (1600, 1200), glass=GLASS) -> TissueMask:
    """Draw on noisy glass and find the tissue."""
    image = Image.new("RGB", size, glass)
    draw(ImageDraw.Draw(image))
    noise = np.random.default_rng(3).normal(0, 4, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", assumed=AT) as slide:
        return find_tissue(slide)


@pytest.mark.parametrize(
    "colour", [EOSIN, PALE, HAEMATOXYLIN, BLUISH], ids=["eosin", "pale", "nuclei", "bluish"]
)
def test_stained_tissue_is_found_at_its_place(tmp_path: Path, colour):
    tissue = mask_of(tmp_path, lambda draw: draw.rectangle((400, 200, 999, 599), fill=colour))
    assert tissue.mask.shape == (300, 400)
    assert tissue.share(Region(400, 200, 600, 400)) > 0.97
    assert tissue.share(Region(0, 650, 1600, 550)) == 0
    assert tissue.area_mm2 == pytest.approx(0.6 * 0.4 * 4, rel=0.05)


@pytest.mark.parametrize("ink", INKS)
def test_a_stroke_of_a_pen_is_no_tissue_and_does_not_hide_any(tmp_path: Path, ink: str):
    def draw(on):
        on.ellipse((200, 200, 900, 900), fill=EOSIN)
        on.ellipse((400, 400, 600, 600), fill=HAEMATOXYLIN)
        on.line((1000, 100, 1400, 500, 1100, 1100), fill=INKS[ink], width=60)

    tissue = mask_of(tmp_path, draw)
    assert tissue.share(Region(950, 0, 650, 1200)) < 0.005
    assert tissue.area_mm2 == pytest.approx(np.pi * 0.35**2 * 4, rel=0.05)


def test_a_vessel_full_of_blood_stays_tissue(tmp_path: Path):
    def draw(on):
        on.rectangle((200, 200, 900, 900), fill=EOSIN)
        on.ellipse((500, 500, 560, 560), fill=(200, 30, 45))

    assert mask_of(tmp_path, draw).share(Region(500, 500, 60, 60)) == 1


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (240, 236, 225), (0, 0, 0), (128, 128, 128)])
def test_an_empty_slide_has_no_tissue(tmp_path: Path, glass):
    tissue = mask_of(tmp_path, lambda draw: None, glass=glass)
    assert not tissue.mask.any()
    assert tissue.area_mm2 == 0
    assert tissue.share(Region(0, 0, 500, 500)) == 0


def test_a_slide_full_of_tissue_is_not_split(tmp_path: Path):
    tissue = mask_of(tmp_path, lambda draw: draw.rectangle((0, 0, 800, 1200), fill=HAEMATOXYLIN), glass=EOSIN)
    assert tissue.mask.all()


def test_in_a_grey_slide_the_darker_is_tissue(tmp_path: Path):
    grey = np.full((1200, 1600), 235, np.uint8)
    grey[300:700, 400:1000] = 130
    Image.fromarray(grey).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", assumed=AT) as slide:
        tissue = find_tissue(slide)
    assert tissue.share(Region(400, 300, 600, 400)) > 0.97
    assert tissue.area_mm2 == pytest.approx(0.96, rel=0.02)


def test_small_holes_are_filled_large_ones_stay_and_dirt_is_dropped(tmp_path: Path):
    def draw(on):
        on.rectangle((200, 200, 1200, 1000), fill=EOSIN)
        on.ellipse((300, 300, 340, 340), fill=GLASS)
        on.rectangle((600, 400, 900, 700), fill=GLASS)
        on.ellipse((1400, 100, 1416, 116), fill=EOSIN)

    tissue = mask_of(tmp_path, draw)
    assert tissue.share(Region(300, 300, 40, 40)) == 1
    assert tissue.share(Region(650, 450, 200, 200)) == 0
    assert tissue.share(Region(1380, 80, 60, 60)) == 0


def test_shares_count_parts_of_cells():
    tissue = TissueMask(np.array([[True, False], [False, False]]), PixelSize(8.0), AT)
    assert tissue.share(Region(0, 0, 4, 4)) == 1
    assert tissue.share(Region(0, 0, 8, 8)) == pytest.approx(0.25)
    assert tissue.share(Region(2, 0, 4, 4)) == pytest.approx(0.5)
    assert tissue.share(Region(-4, -4, 8, 8)) == pytest.approx(0.25)
    assert tissue.share(Region(100, 100, 8, 8)) == 0


def test_larger_cells_hold_tissue_where_half_of_them_does():
    fine = TissueMask(np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1]], bool), PixelSize(8.0), AT)
    coarse = fine.resized(PixelSize(16.0))
    assert coarse.cell == PixelSize(16.0)
    np.testing.assert_array_equal(coarse.mask, [[True, False, True]])
    np.testing.assert_array_equal(fine.resized(PixelSize(4.0)).mask, fine.mask.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("cell", [4.0, 32.0, 100.0, 5000.0])
def test_cells_of_any_size_work(tmp_path: Path, cell: float):
    image = Image.new("RGB", (1600, 1200), EOSIN)
    image.save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", assumed=AT) as slide:
        tissue = find_tissue(slide, PixelSize(cell))
    assert tissue.mask.shape == (int(np.ceil(2400 / cell)), int(np.ceil(3200 / cell)))
    # A cell may be larger than the slide, and is then mostly glass.
    assert cell > 1000 or tissue.share(Region(0, 0, 1500, 1100)) > 0.98


@needs_real_slides
@pytest.mark.parametrize(("path", "least", "most"), [(CMU, 0.33, 0.45), (TCGA, 0.58, 0.70)])
def test_real_slides_have_the_tissue_that_one_sees(path: Path, least: float, most: float):
    with open_slide(path) as slide:
        assert least < find_tissue(slide).share(slide.bounds) < most
