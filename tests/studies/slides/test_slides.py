"""A made-up slide is one that viewers open; it depends on its seed alone, and its truth is where the tumour is."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import pytest
from shapely.geometry import Polygon, box

from overread.domain import BadInputError
from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.outlines import rasterise
from overread.imaging.slides.slide import open_slide
from overread.imaging.slides.tissue import find_tissue
from overread.studies.slides.architecture import build
from overread.studies.slides.centres import CENTRES
from overread.studies.slides.painter import Painter
from overread.studies.slides.writer import SlideTruth, make_slide, painted

SIZE = (3000, 2600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideTruth]:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    return path, make_slide(path, centre="A", size_px=SIZE, seed=8, workers=2)


def test_openslide_reads_the_slide_with_its_pixel_size_and_levels(made: tuple[Path, SlideTruth]) -> None:
    with openslide.OpenSlide(made[0]) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.dimensions == SIZE
        assert [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"] == pytest.approx(
            [0.5, 0.5]
        )
        assert slide.level_dimensions == ((3000, 2600), (750, 650), (188, 163))


def test_levels_show_the_same(made: tuple[Path, SlideTruth]) -> None:
    with openslide.OpenSlide(made[0]) as slide:
        levels = [
            np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"), float)
            for level in (0, 1, 2)
        ]
    for large, small in pairwise(levels):
        rows, columns = (edge // 4 for edge in large.shape[:2])
        means = large[: rows * 4, : columns * 4].reshape(rows, 4, columns, 4, 3).mean(axis=(1, 3))
        # JPEG stands between them.
        assert np.abs(means - small[:rows, :columns]).mean() < 3


def test_the_file_does_not_depend_on_the_number_of_workers(
    made: tuple[Path, SlideTruth], tmp_path: Path
) -> None:
    shares = []
    again = make_slide(
        tmp_path / "again.tif", centre="A", size_px=SIZE, seed=8, workers=1, progress=shares.append
    )
    assert (tmp_path / "again.tif").read_bytes() == made[0].read_bytes()
    assert again.outlines == made[1].outlines
    assert shares == [0.5, 1.0]


def test_another_seed_is_another_patient(made: tuple[Path, SlideTruth]) -> None:
    size_um = (1500.0, 1300.0)
    mine, other = build(8, size_um), build(9, size_um)
    assert not np.array_equal(mine.tissue, other.tissue)
    assert mine.outlines != other.outlines


def test_parts_of_a_slide_fit_together_without_a_seam() -> None:
    painter = Painter(build(8, (1500.0, 1300.0)), 0.5)
    whole = painter.dyes(600, 600, 800, 500)
    left, right = painter.dyes(600, 600, 371, 500), painter.dyes(971, 600, 429, 500)
    assert whole is not None
    assert left is not None
    assert right is not None
    np.testing.assert_allclose(np.concatenate([left, right], axis=2), whole, atol=2e-3)


def test_all_centres_see_the_same_tissue_in_other_colours(tmp_path: Path) -> None:
    colours, truths = [], []
    for centre in CENTRES:
        path = tmp_path / f"{centre}.tif"
        truths.append(make_slide(path, centre=centre, size_px=(1200, 1200), seed=8).outlines)
        with open_slide(path) as slide:
            picture = slide.read(slide.bounds, PixelSize(4.0)).astype(float)
        colours.append(picture[picture.max(axis=-1) - picture.min(axis=-1) > 40].mean(axis=0))
    assert all(truth == truths[0] for truth in truths)
    apart = np.linalg.norm(np.array(colours)[:, None] - np.array(colours)[None], axis=-1)
    assert apart[~np.eye(len(CENTRES), dtype=bool)].min() > 10


def test_the_outline_is_valid_on_the_tissue_and_holds_the_large_nuclei(made: tuple[Path, SlideTruth]) -> None:
    path, truth = made
    assert truth.outlines
    assert all(isinstance(part, Polygon) and part.is_valid for part in truth.outlines)
    assert box(0, 0, *SIZE).contains(truth.outlines[0])
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        rows, columns = tissue.mask.shape
        zoom = tissue.cell / slide.pixel_size
        whole = Region(0, 0, round(columns * zoom), round(rows * zoom))
        tumour = rasterise([(part, 1) for part in truth.outlines], whole, (columns, rows)) > 0
        red = slide.read(slide.bounds, tissue.cell)[..., 0].astype(float)
    tumour = tumour[: red.shape[0], : red.shape[1]]
    on_tissue = tissue.mask[: red.shape[0], : red.shape[1]]
    assert on_tissue[tumour].mean() > 0.9
    assert 0.03 < tumour.sum() / on_tissue.sum() < 0.5
    # Haematoxylin is what takes red away.
    assert red[tumour & on_tissue].mean() < red[~tumour & on_tissue].mean() - 15


def test_polygons_do_not_overlap_and_may_have_holes() -> None:
    outlines = build(8, (4000.0, 4000.0)).outlines
    assert len(outlines) > 1
    assert any(part.interiors for part in outlines)
    for number, part in enumerate(outlines):
        assert not any(part.intersects(other) for other in outlines[number + 1 :])


def test_a_slide_without_tumour_has_no_outline_and_the_same_tissue() -> None:
    size_um = (1500.0, 1300.0)
    healthy = build(8, size_um, tumour=False)
    assert healthy.outlines == ()
    assert float(healthy.nests.max()) < 0
    np.testing.assert_array_equal(healthy.tissue, build(8, size_um).tissue)


def test_glands_lymphocytes_and_fat_lie_outside_of_the_tumour() -> None:
    tissue = build(8, (4000.0, 4000.0))
    tumour = tissue.tumour > 0
    for benign in (tissue.glands.depth, tissue.lymphoid, tissue.fat):
        assert (benign > 0).sum() > 100
        assert not (tumour & (benign > 0)).any()


def test_glass_is_nearly_white_and_even() -> None:
    corner = painted(Painter(build(8, (1500.0, 1300.0)), 0.5), CENTRES["A"], 0, 0, edge=24)
    assert np.abs(corner.mean(axis=(0, 1)) - (243, 242, 244)).max() < 4
    assert corner.std(axis=(0, 1)).max() < 3


def test_a_finer_slide_shows_the_same_tissue_with_more_pixels(tmp_path: Path) -> None:
    pictures = []
    for um, size in ((0.5, 1000), (0.25, 2000)):
        make_slide(tmp_path / f"{size}.tif", centre="A", size_px=(size, size), seed=3, um_per_px=um)
        with open_slide(tmp_path / f"{size}.tif") as slide:
            assert slide.pixel_size.um == pytest.approx(um)
            pictures.append(slide.read(slide.bounds, PixelSize(8.0)).astype(float))
    assert np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] > 0.97


def test_an_unknown_centre_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no centre 'F'; the centres are A, B, C, D, E"):
        make_slide(tmp_path / "f.tif", centre="F", size_px=SIZE, seed=0)


def test_a_slide_too_small_for_tissue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="200 x 3000 pixels is too small, at least 256 x 256 are needed"):
        make_slide(tmp_path / "f.tif", centre="A", size_px=(200, 3000), seed=0)
