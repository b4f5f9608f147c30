"""Slides as Hamamatsu, Leica and 3DHISTECH write them show at every pixel size what was scanned, where QuPath shows it.

The files are made by `support.vendor_slides` after the formats' description; no scanner wrote them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest

from overread.domain import BadInputError
from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.slide import Slide, find_slides, open_slide
from overread.imaging.slides.tissue import find_tissue
from support.blobs import BLOBS, PIXEL, SIZE, SURE_AT, TISSUE_AT, blob_picture
from support.vendor_slides import (
    ADVANCE,
    EMPTY,
    OVERLAP,
    PHOTO,
    mirax_size,
    shrunk,
    write_mrxs,
    write_ndpi,
    write_scn,
)

PICTURE = blob_picture()
NAMES = {"hamamatsu": "a.1.ndpi", "leica": "b.scn", "mirax": "c.mrxs"}
FACTORS = {"hamamatsu": (1, 2, 4, 8, 16, 32), "leica": (1, 4, 16), "mirax": (1, 2, 4, 8)}
# A photo of glass alone.
SKIPPED = (4, 3)
# Beyond, MIRAX has the rest of its last photos.
ALL = Region(0, 0, *SIZE)
VENDORS = list(NAMES)
each_vendor = pytest.mark.parametrize("vendor", VENDORS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide of each maker, and the same as TIFF."""
    made = tmp_path_factory.mktemp("makers")
    write_ndpi(made / NAMES["hamamatsu"], PICTURE, PIXEL)
    write_scn(made / NAMES["leica"], PICTURE, PIXEL)
    write_mrxs(made / NAMES["mirax"], PICTURE, PIXEL, skipped=[SKIPPED])
    write_pyramid(made / "plain.tif", PICTURE, PIXEL)
    return made


@pytest.fixture
def opened(folder: Path, vendor: str):
    """A maker's slide."""
    with open_slide(folder / NAMES[vendor]) as slide:
        yield slide


@pytest.fixture
def plain(folder: Path):
    """The same pixels as TIFF."""
    with open_slide(folder / "plain.tif") as slide:
        yield slide


def farthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


def box_of(pixels: np.ndarray) -> Region:
    """Around all that is darker in red than halfway from tissue to the darkest blob."""
    rows, columns = np.nonzero(pixels[..., 0] < (BLOBS[0][1][0] + 222) / 2)
    x, y = int(columns.min()), int(rows.min())
    return Region(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)


@each_vendor
def test_openslide_takes_the_file_for_its_makers(folder: Path, vendor: str):
    path = folder / NAMES[vendor]
    assert openslide.OpenSlide.detect_format(path) == vendor
    with openslide.OpenSlide(path) as theirs:
        assert theirs.properties[openslide.PROPERTY_NAME_VENDOR] == vendor
        assert theirs.level_count == len(FACTORS[vendor])
        assert list(theirs.associated_images) == ["macro"]


@each_vendor
def test_size_levels_and_pixel_size_are_those_of_what_was_scanned(opened: Slide, vendor: str):
    assert opened.size_px == (mirax_size(PICTURE) if vendor == "mirax" else SIZE)
    assert opened.downsamples == FACTORS[vendor]
    assert opened.pixel_size.um == pytest.approx(0.5)
    assert not opened.is_pixel_size_assumed
    assert opened.id == {"hamamatsu": "a.1", "leica": "b", "mirax": "c"}[vendor]


@each_vendor
def test_pixels_and_edges_are_where_they_were_scanned(opened: Slide, vendor: str):
    assert farthest(opened.read(ALL, PIXEL), PICTURE) <= 14
    around = Region(SURE_AT.x - 37, SURE_AT.y - 11, SURE_AT.width + 90, SURE_AT.height + 50)
    found = box_of(opened.read(around, PIXEL))
    assert (around.x + found.x, around.y + found.y, found.width, found.height) == SURE_AT.bbox


@each_vendor
def test_a_level_shows_the_means_of_its_pixels(opened: Slide, vendor: str):
    seen, means = opened.read(ALL, PixelSize(2.0)), shrunk(PICTURE, 4)
    # Photos lie at a fraction of a level's pixel: edges are drawn softly there.
    assert farthest(seen, means) <= (40 if vendor == "mirax" else 16)
    assert box_of(seen) == box_of(means)


@each_vendor
@pytest.mark.parametrize("um", [0.7, 1.37, 3.9, 9.1])
def test_any_pixel_size_shows_what_a_tiff_of_the_same_pixels_does(
    opened: Slide, plain: Slide, vendor: str, um: float
):
    region = Region(311, 233, 1805, 1189)
    ours, theirs = (slide.read(region, PixelSize(um)) for slide in (opened, plain))
    assert ours.shape == theirs.shape
    # A pixel of level 0 beside its place would be a difference of 16 at 3.9 µm, and of 70 at 0.7 µm.
    assert farthest(ours, theirs) <= 30
    assert np.abs(ours.astype(int) - theirs).mean() < 0.5


@each_vendor
def test_tissue_and_overview_are_those_of_the_picture(opened: Slide, plain: Slide, vendor: str):
    ours, theirs = find_tissue(opened), find_tissue(plain)
    rows, columns = theirs.mask.shape
    assert (ours.mask[:rows, :columns] == theirs.mask).mean() > 0.995
    assert not ours.mask[rows:].any()
    assert not ours.mask[:, columns:].any()
    assert ours.area_mm2 == pytest.approx(TISSUE_AT.area_px * PIXEL.um**2 / 1e6, rel=0.02)
    overview = opened.thumbnail(600)
    assert max(overview.shape) == 600
    assert abs(overview.mean() - opened.read(opened.bounds, PixelSize(8.0)).mean()) < 1


def test_a_photo_that_was_not_taken_is_white(folder: Path):
    x, y = SKIPPED[0] * ADVANCE + OVERLAP, SKIPPED[1] * ADVANCE + OVERLAP
    with open_slide(folder / NAMES["mirax"]) as slide:
        for um in (0.5, 1.0, 4.0):
            assert slide.read(Region(x, y, PHOTO - OVERLAP, PHOTO - OVERLAP), PixelSize(um)).min() == 255


def test_pixels_count_from_where_qupath_counts_them(folder: Path):
    """QuPath opens of MIRAX and Leica what lies within OpenSlide's bounds."""
    for vendor, corner in (("mirax", (EMPTY * ADVANCE,) * 2), ("leica", (400, 240))):
        with openslide.OpenSlide(folder / NAMES[vendor]) as theirs:
            bounds = tuple(int(theirs.properties[f"openslide.bounds-{axis}"]) for axis in "xy")
            assert bounds == corner
            x, y = (first + each for first, each in zip(corner, (SURE_AT.x, SURE_AT.y), strict=True))
            shown = np.asarray(theirs.read_region((x, y), 0, (50, 40)))[..., :3]
        with open_slide(folder / NAMES[vendor]) as slide:
            np.testing.assert_array_equal(slide.read(Region(SURE_AT.x, SURE_AT.y, 50, 40), PIXEL), shown)


def test_levels_that_the_glass_is_no_multiple_of_are_not_shifted(tmp_path: Path):
    stripes = np.full((1024, 3200, 3), 230, np.uint8)
    stripes[:, ::64] = stripes[:, 1::64] = stripes[:, 2::64] = stripes[:, 3::64] = 60
    # Level 1 has 4.00, but in the header 3.996 pixels of level 0 along one of its own.
    write_scn(tmp_path / "a.scn", stripes, PIXEL, at=(4, 4), glass=(3205, 1030), factors=(1, 4))
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.downsamples == (1.0, 4.0)
        assert farthest(slide.read(Region(0, 0, 3200, 1024), PixelSize(2.0)), shrunk(stripes, 4)) <= 20


def test_a_slide_wider_than_a_jpeg_may_be_is_read_to_its_end(tmp_path: Path):
    wide = np.full((64, 66_048, 3), 220, np.uint8)
    wide[20:40, 65_900:66_000] = (90, 30, 120)
    write_ndpi(tmp_path / "wide.ndpi", wide, PixelSize(0.25), lens=40.0)
    with open_slide(tmp_path / "wide.ndpi") as slide:
        assert slide.size_px == (66_048, 64)
        assert slide.pixel_size.um == pytest.approx(0.25)
        seen = slide.read(Region(65_800, 0, 248, 64), PixelSize(0.25))
        assert box_of(seen) == Region(100, 20, 100, 20)
        assert farthest(seen, wide[:, 65_800:]) <= 14


@pytest.mark.parametrize(("lens", "um"), [(20.0, 0.5), (40.0, 0.25)])
def test_where_the_pixel_size_is_missing_the_lens_tells_it(tmp_path: Path, lens: float, um: float):
    write_ndpi(tmp_path / "a.ndpi", PICTURE, None, lens=lens)
    with open_slide(tmp_path / "a.ndpi", assumed=PixelSize(0.7)) as slide:
        assert (slide.pixel_size, slide.is_pixel_size_assumed) == (PixelSize(um), True)


# -- what is broken ------------------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_folder(path: Path) -> None:
    shutil.rmtree(path.with_suffix(""))


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path.with_suffix("") / name).unlink()


def cut_off_within(name: str) -> Callable[[Path], None]:
    return lambda path: cut_off(path.with_suffix("") / name)


def without_scan(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"brightfield", b"fluorescenc"))


BROKEN = {
    "cut off.ndpi": (cut_off, "OpenSlide does not recognise it as a slide"),
    "cut off.scn": (cut_off, "OpenSlide does not recognise it as a slide"),
    "fluorescence.scn": (without_scan, "Can't find main image"),
    "no folder.mrxs": (
        without_folder,
        "beside it must lie the folder 'no folder' with Slidedat.ini and the pixels",
    ),
    "no slidedat.mrxs": (
        without("Slidedat.ini"),
        "beside it must lie the folder 'no slidedat' with Slidedat.ini",
    ),
    "no index.mrxs": (without("Index.dat"), "Index.dat"),
    "no pixels.mrxs": (without("Data0001.dat"), "Data0001.dat"),
    "half an index.mrxs": (cut_off_within("Index.dat"), "Can't"),
    "half a slidedat.mrxs": (cut_off_within("Slidedat.ini"), "Can't load Slidedat.ini file"),
    "half of the pixels.mrxs": (cut_off_within("Data0001.dat"), "Can't hash images"),
}
WRITERS = {".ndpi": write_ndpi, ".scn": write_scn, ".mrxs": write_mrxs}


def test_what_is_broken_is_named_and_the_others_go_on(folder: Path, tmp_path: Path):
    write_pyramid(tmp_path / "well.tif", PICTURE, PIXEL)
    for name, (breaks, _) in BROKEN.items():
        path = tmp_path / name
        shutil.copy(folder / next(each for each in NAMES.values() if each.endswith(path.suffix)), path)
        if path.suffix == ".mrxs":
            shutil.copytree(folder / "c", path.with_suffix(""))
        breaks(path)
    shutil.copy(folder / NAMES["leica"], tmp_path)
    found = find_slides(tmp_path)
    assert list(found.slides) == ["b", "well"]
    problems = {Path(problem.split(" cannot be read: ")[0]).name: problem for problem in found.problems}
    for name, (_, sentence) in BROKEN.items():
        assert sentence in problems.pop(name)
    assert problems == {}


def test_pixels_that_are_missing_are_named_where_they_are_met(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "c", tmp_path / "c")
    shutil.copy(folder / "c.mrxs", tmp_path)
    data = tmp_path / "c" / "Data0000.dat"
    content = data.read_bytes()
    # Behind the macro picture lies the finest level.
    third = len(content) // 3
    data.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    with (
        open_slide(tmp_path / "c.mrxs") as slide,
        pytest.raises(BadInputError, match=r"c\.mrxs is damaged on level 0 at x \d+, y \d+"),
    ):
        slide.read(ALL, PIXEL)


def test_a_mirax_slide_is_found_when_its_folder_has_come(folder: Path, tmp_path: Path):
    shutil.copy(folder / "c.mrxs", tmp_path)
    assert find_slides(tmp_path).slides == {}
    shutil.copytree(folder / "c", tmp_path / "c")
    found = find_slides(tmp_path)
    assert (list(found.slides), found.problems) == (["c"], [])
