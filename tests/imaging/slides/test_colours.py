"""Claim: a slide is seen in another laboratory's colours: glass stays white, stains take each other's place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.domain import BadInputError
from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.colours import (
    LEAST_MOMENT,
    densities_of,
    map_between,
    mean_moments,
    moments_of,
    recoloured,
)
from overread.imaging.slides.normalised import (
    OF_A_CENTRE,
    SQUARE_PX,
    colours_around,
    colours_of_slide,
    normalised,
    slides_around,
    some_of,
)
from overread.imaging.slides.pyramid import write_pyramid
from overread.imaging.slides.slide import open_slide

# Densities of red, green and blue per unit of each of two dyes, at two laboratories.
HERE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
THERE = np.array([[0.45, 0.80, 0.40], [0.20, 0.85, 0.30]])


def stained(dyes: np.ndarray, seed: int = 0, edge: int = 64, strength: float = 1.0) -> np.ndarray:
    """A picture `(row, column, 3)` with a glass border and the same amounts of both dyes at either laboratory."""
    amounts = np.random.default_rng(seed).uniform(0.1, 0.9, (edge, edge, 2)) * strength
    amounts[:8] = 0
    return np.rint(255 * np.exp(-amounts @ dyes)).astype(np.uint8)


def test_moments_are_those_of_tissue_however_much_glass_there_is():
    picture = stained(HERE)
    tissue = densities_of(picture[8:]).reshape(-1, 3).T
    expected = tissue.astype(float) @ tissue.T.astype(float) / tissue.shape[1] + LEAST_MOMENT * np.eye(3)
    np.testing.assert_allclose(moments_of(tissue), expected, rtol=1e-6)
    np.testing.assert_allclose(mean_moments([picture]), expected, rtol=1e-6)
    more = np.concatenate([np.full((200, 64, 3), 250, np.uint8), picture])
    np.testing.assert_allclose(mean_moments([more]), expected, rtol=0.05)
    one, other = mean_moments([stained(HERE, 1)]), mean_moments([stained(HERE, 2)])
    np.testing.assert_allclose(mean_moments([stained(HERE, 1), stained(HERE, 2)]), (one + other) / 2)


def test_the_map_turns_one_laboratory_s_pictures_into_the_other_s():
    here, there = stained(HERE), stained(THERE)
    matrix = map_between(mean_moments([there]), mean_moments([here]))
    turned = recoloured(there, matrix)
    assert turned.dtype == np.uint8
    before = np.abs(there.astype(float) - here).mean()
    assert np.abs(turned.astype(float) - here).mean() < before / 3
    np.testing.assert_allclose(mean_moments([turned]), mean_moments([here]), rtol=0.05, atol=0.01)
    assert (recoloured(np.full((2, 2, 3), 255, np.uint8), matrix) == 255).all()
    # Of all such maps the one that moves least is symmetric and has no negative values (Pitié & Kokaram).
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert (np.linalg.eigvalsh(matrix) > 0).all()


def test_the_own_colours_change_nothing():
    picture = stained(HERE)
    own = mean_moments([picture])
    np.testing.assert_allclose(map_between(own, own), np.eye(3), atol=1e-6)
    assert np.abs(recoloured(picture, map_between(own, own)).astype(int) - picture).max() <= 1


@pytest.mark.parametrize("extreme", [0, 255])
def test_black_and_empty_pictures_give_numbers(extreme: int):
    blank, picture = np.full((16, 16, 3), extreme, np.uint8), stained(HERE)
    for now, wanted in ((blank, picture), (picture, blank)):
        matrix = map_between(mean_moments([now]), mean_moments([wanted]))
        assert np.isfinite(matrix).all()
        assert recoloured(now, matrix).shape == now.shape


def write_slide(path: Path, dyes: np.ndarray, seed: int = 3) -> Path:
    """2048 pixels of 0.5 µm each way, a quarter of them tissue."""
    picture = np.full((2048, 2048, 3), 245, np.uint8)
    picture[512:1536, 512:1536] = stained(dyes, seed, 1024)
    write_pyramid(path, picture, PixelSize(0.5))
    return path


def test_a_slide_s_colours_are_those_of_its_tissue_and_the_same_whenever_asked(tmp_path: Path):
    with open_slide(write_slide(tmp_path / "a.tif", HERE)) as slide:
        found = colours_of_slide(slide, PixelSize(0.5))
        np.testing.assert_array_equal(found, colours_of_slide(slide, PixelSize(0.5)))
        np.testing.assert_allclose(found, mean_moments([stained(HERE, 3, 1024)]), rtol=0.08)


def test_a_small_picture_is_measured_whole_and_an_empty_slide_gives_numbers(tmp_path: Path):
    picture = stained(HERE, edge=SQUARE_PX)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        np.testing.assert_allclose(colours_of_slide(slide, slide.pixel_size), mean_moments([picture]))
    write_pyramid(tmp_path / "b.tif", np.full((2048, 2048, 3), 245, np.uint8), PixelSize(0.5))
    with open_slide(tmp_path / "b.tif") as slide:
        assert np.isfinite(colours_of_slide(slide, PixelSize(0.5))).all()


def test_slides_of_two_laboratories_look_alike_and_one_that_changed_is_measured_again(tmp_path: Path):
    reference, pixel, region = (
        mean_moments([stained(HERE, 5, 256)]),
        PixelSize(0.5),
        Region(600, 600, 256, 256),
    )
    seen = {}
    for name, dyes in (("here.tif", HERE), ("there.tif", THERE)):
        with open_slide(write_slide(tmp_path / name, dyes)) as slide:
            assert normalised(slide, None, pixel) is slide
            seen[name] = normalised(slide, reference, pixel).read_into(region, (256, 256)).astype(float)
            before = slide.read_into(region, (256, 256)).astype(float)
    assert np.abs(seen["here.tif"] - seen["there.tif"]).mean() < np.abs(before - seen["here.tif"]).mean() / 3
    with open_slide(write_slide(tmp_path / "there.tif", HERE, seed=4)) as slide:
        now = normalised(slide, reference, pixel).read_into(region, (256, 256))
        assert np.abs(now.astype(float) - slide.read_into(region, (256, 256))).mean() < 6


def centre_folder(folder: Path, rows: str) -> dict[str, Path]:
    """Slides of strong and of weak dyes, and what `patients.csv` says of them."""
    folder.mkdir()
    strong, weak = HERE * 1.3, HERE * 0.7
    made = {"a": strong, "b": weak, "c": THERE}
    (folder / "patients.csv").write_text(rows)
    return {name: write_slide(folder / f"{name}.tif", dyes) for name, dyes in made.items()}


def test_a_slide_is_measured_by_all_of_its_centre_and_alone_where_no_centre_is_known(tmp_path: Path):
    at = PixelSize(0.5)
    slides = centre_folder(tmp_path / "s", "case,patient,centre\na,1,east\nb,2,east\nc,3,\n")
    own = {}
    for name, path in slides.items():
        with open_slide(path) as slide:
            own[name] = colours_of_slide(slide, at)
    around = {}
    for name, path in slides.items():
        with open_slide(path) as slide:
            around[name] = colours_around(slide, at)
    np.testing.assert_allclose(around["a"], (own["a"] + own["b"]) / 2)
    np.testing.assert_array_equal(around["b"], around["a"])
    np.testing.assert_array_equal(around["c"], own["c"])
    with open_slide(slides["c"], alike=(slides["b"],)) as slide:
        np.testing.assert_array_equal(colours_around(slide, at), own["b"])


def test_what_cannot_be_read_of_a_centre_is_left_out_and_a_broken_table_is_named(tmp_path: Path):
    rows = "case,patient,centre\na,1,east\nb,2,east\nd,4,east\n"
    slides = centre_folder(tmp_path / "s", rows)
    (tmp_path / "s" / "d.tif").write_bytes(b"still being copied")
    assert set(slides_around(slides["a"])) == {slides["a"], slides["b"]}
    with open_slide(slides["a"], alike=(tmp_path / "s" / "d.tif", tmp_path / "gone.tif")) as slide:
        np.testing.assert_array_equal(
            colours_around(slide, PixelSize(0.5)), colours_of_slide(slide, PixelSize(0.5))
        )
    (tmp_path / "s" / "patients.csv").write_text("case\na\n")
    with pytest.raises(BadInputError, match=r"patients.csv has no column patient"):
        slides_around(slides["a"])


def test_of_a_large_centre_some_slides_are_measured_and_one_more_changes_little():
    many = [Path(f"{number}.tif") for number in range(100)]
    some = some_of(many)
    assert len(some) == OF_A_CENTRE
    assert some_of(many[::-1]) == some
    assert len(set(some_of([*many, Path("new.tif")])) - set(some)) <= 1


def test_a_recoloured_slide_reads_as_the_other_laboratory_s_and_the_first_one_as_before(tmp_path: Path):
    picture = stained(THERE, edge=256)
    Image.fromarray(picture).save(tmp_path / "a.png")
    matrix = map_between(mean_moments([picture]), mean_moments([stained(HERE, edge=256)]))
    region = Region(10, 20, 40, 30)
    with open_slide(tmp_path / "a.png") as slide:
        other = slide.recoloured(matrix)
        np.testing.assert_array_equal(
            other.read_into(region, (40, 30)), recoloured(picture[20:50, 10:50], matrix)
        )
        np.testing.assert_array_equal(slide.read_into(region, (40, 30)), picture[20:50, 10:50])
        # What lies outside stays white.
        assert (other.read_into(Region(-50, -50, 20, 20), (20, 20)) == 255).all()
        assert (other.bounds, other.pixel_size, other.id) == (slide.bounds, slide.pixel_size, slide.id)
