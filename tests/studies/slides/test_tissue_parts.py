"""The parts that a made-up slide is put together from do what they promise."""

import numpy as np
import pytest
from shapely.geometry import Point

from overread.studies.slides.architecture import build
from overread.studies.slides.cells import cells_of
from overread.studies.slides.centres import CENTRES
from overread.studies.slides.fields import CELL_UM, PAD, at_points, distance_to_border, magnified, places
from overread.studies.slides.noise import hashed_uniform, periodic_noise, smooth_noise
from overread.studies.slides.nuclei import KINDS, draw_nucleus, stamps
from overread.studies.slides.scanner import MARGIN_PX, scan
from overread.studies.slides.structures import grow_glands
from overread.studies.slides.textures import textures
from overread.studies.slides.truth import trace


def disc(radius_um: float, edge: int = 150) -> np.ndarray:
    """µm below the border of a disc in the middle of a map."""
    x, y = places((edge, edge))
    middle = (edge / 2 - PAD) * CELL_UM
    return radius_um - np.hypot(x - middle, y - middle)


def test_hashed_numbers_depend_on_the_place_alone_and_are_even() -> None:
    columns, rows = np.meshgrid(np.arange(-100, 100), np.arange(-100, 100))
    numbers = hashed_uniform(columns, rows, 3, 7)
    np.testing.assert_array_equal(
        numbers[50:60, 20:30], hashed_uniform(columns[50:60, 20:30], rows[50:60, 20:30], 3, 7)
    )
    assert np.histogram(numbers, 10, (0, 1))[0] == pytest.approx([4000] * 10, rel=0.1)
    assert abs(np.corrcoef(numbers.ravel(), hashed_uniform(columns, rows, 4, 7).ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 0.02


def test_smooth_noise_has_the_stated_spread_and_no_direction() -> None:
    noise = smooth_noise((800, 600), 20, np.random.default_rng(0))
    assert noise.shape == (800, 600)
    assert noise.std() == pytest.approx(1, abs=0.15)
    steps = [np.abs(np.diff(noise, axis=axis)).mean() for axis in (0, 1)]
    assert steps[0] == pytest.approx(steps[1], rel=0.1)


def test_periodic_noise_repeats_without_a_seam() -> None:
    noise = periodic_noise(128, 3, np.random.default_rng(0))
    assert np.abs(noise[0] - noise[-1]).mean() < 1.5 * np.abs(np.diff(noise, axis=0)).mean()


def test_textures_repeat_after_one_period() -> None:
    repeating = textures(0.5)
    columns, rows = np.arange(7), np.full(7, 5)
    np.testing.assert_array_equal(
        repeating.at(columns, rows), repeating.at(columns - 3 * repeating.edge, rows + repeating.edge)
    )


def test_the_distance_to_a_disc_is_right_near_its_border() -> None:
    exact = disc(150)
    about = distance_to_border(exact / 37)
    near = np.abs(exact) < 40
    np.testing.assert_allclose(about[near], exact[near], atol=1.5)


def test_a_map_is_seen_at_the_same_place_from_high_and_low_power() -> None:
    field = disc(150)
    high = magnified(field, 100.0, 60.0, (80, 40), 0.5)
    assert high.shape == (40, 80)
    x, y = np.meshgrid(100 + (np.arange(80) + 0.5) * 0.5, 60 + (np.arange(40) + 0.5) * 0.5)
    np.testing.assert_allclose(high, at_points(field, x.ravel(), y.ravel()).reshape(40, 80), atol=0.3)


def test_no_points_have_no_values() -> None:
    assert at_points(disc(50), np.zeros(0), np.zeros(0)).shape == (0,)


def test_a_ring_is_traced_as_a_polygon_with_a_hole_in_um() -> None:
    (ring,) = trace(np.minimum(disc(200), -disc(80)), 100)
    assert ring.area == pytest.approx(np.pi * (200**2 - 80**2), rel=0.01)
    assert len(ring.interiors) == 1
    middle = (75 - PAD) * CELL_UM
    assert ring.centroid.distance(Point(middle, middle)) < 1


def test_nothing_positive_has_no_outline() -> None:
    assert trace(np.full((40, 40), -5.0), 100) == []


def test_what_is_smaller_than_the_smallest_is_not_traced() -> None:
    assert trace(disc(30), 5000) == []


@pytest.mark.parametrize("kind", KINDS)
def test_nuclei_have_the_stated_size(kind: str) -> None:
    wanted, rng = KINDS[kind], np.random.default_rng(0)
    areas = []
    for _ in range(60):
        stamp = draw_nucleus(wanted, rng.uniform(0, np.pi), 0.25, rng)
        areas.append((stamp.add[0] > 0.12).sum() * 0.25**2)
        # The stamp is large enough for the nucleus to end within.
        assert stamp.add[:, 0].max() < 0.01
    expected = np.pi / 4 * wanted.length_um * wanted.width_um
    assert np.mean(areas) == pytest.approx(expected, rel=0.25)


def test_oriented_nuclei_are_turned_through_half_a_circle() -> None:
    bank = stamps(0.5)["fibroblast"]
    wide = [np.ptp(np.argwhere(stamp.add[0] > 0.2), axis=0) for stamp in (bank[0], bank[len(bank) // 2])]
    assert wide[0][1] > 2 * wide[0][0]
    assert wide[1][0] > 2 * wide[1][1]


def test_large_nuclei_lie_within_the_outline_only() -> None:
    architecture = build(8, (1500.0, 1300.0))
    cells = list(cells_of(architecture, (0, 0, 1500, 1300)))
    of_tumour = [cell for cell in cells if cell.kind in ("tumour", "giant", "mitosis")]
    assert len(of_tumour) > 200
    inside = at_points(
        architecture.tumour,
        np.array([cell.x_um for cell in of_tumour]),
        np.array([cell.y_um for cell in of_tumour]),
    )
    assert inside.min() > 0
    assert {"lymphocyte", "fibroblast", "epithelium", "erythrocyte"} <= {cell.kind for cell in cells}


def test_a_part_of_a_slide_finds_the_same_cells_as_the_whole() -> None:
    architecture = build(8, (1500.0, 1300.0))
    left, top, right, bottom = window = (400, 300, 700, 600)

    def within(cells):
        return [c for c in cells if left <= c.x_um < right and top <= c.y_um < bottom]

    part, whole = (within(cells_of(architecture, bounds)) for bounds in (window, (0, 0, 1500, 1300)))
    assert part == whole


def test_without_room_no_gland_grows() -> None:
    glands = grow_glands(np.full((60, 60), -20.0), (200, 200), np.random.default_rng(0))
    assert not len(glands.x_um)
    assert float(glands.depth.max()) < 0


def test_light_follows_beer_and_lambert() -> None:
    edge = 2 * MARGIN_PX + 4
    dyes = np.zeros((2, edge, edge), np.float32)
    dyes[0] = 0.3
    centre = CENTRES["A"]
    seen = scan(dyes, None, centre, 0.5, 0)
    assert seen.shape == (4, 4, 3)
    expected = 10 ** (-0.3 * centre.stain.matrix[0]) * np.array(centre.scanner.glass)
    np.testing.assert_allclose(seen.mean(axis=(0, 1)), expected, atol=1.5)
    with_ink = scan(dyes, np.full((3, edge, edge), 0.2, np.float32), centre, 0.5, 0)
    np.testing.assert_allclose(with_ink.mean(axis=(0, 1)), expected * 10**-0.2, atol=1.5)


def test_stain_vectors_have_length_one_before_their_strength() -> None:
    for centre in CENTRES.values():
        lengths = np.linalg.norm(centre.stain.matrix, axis=1)
        assert lengths == pytest.approx([centre.stain.haematoxylin_strength, centre.stain.eosin_strength])
