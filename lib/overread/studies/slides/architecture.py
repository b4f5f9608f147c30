"""The anatomy of a slide: where tissue, tumour, glands, lymphocytes, fat, vessels, folds and pen strokes lie.

It depends on seed and size only. The five centres see the same tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from shapely.geometry import Polygon

from overread.studies.slides.artefacts import Pen, draw_fold, draw_pen
from overread.studies.slides.fields import CELL_UM, PAD, distance_to_border, grid_shape, places
from overread.studies.slides.noise import smooth_noise
from overread.studies.slides.structures import Glands, grow_foci, grow_glands, grow_vessels
from overread.studies.slides.truth import trace

# A pathologist does not outline less than a nest of some twenty cells.
SMALLEST_TUMOUR_UM2 = 6000.0


@dataclass(frozen=True, eq=False)
class Architecture:
    """Maps of one slide, each (rows, columns) with cells of `CELL_UM`; distances in µm, positive inside.

    Attributes:
        tissue: to the tissue's border.
        tumour: to the outline of the tumour, which is the truth.
        nests: to the border of a nest of tumour cells; nests lie within the outline, with stroma between them.
        necrosis: to the border of dead tumour.
        fat, lymphoid: to the border of fat and of lymphocytes' aggregates.
        glands: benign glands.
        vessels: to the inner border of a vessel's wall.
        fold: to the border of tissue that lies double.
        thickness: how much dye the section takes here; about 1.
        warp: (2, rows, columns) µm by which repeating textures are shifted.
        pen: strokes on the glass.
        outlines: the truth in µm from the slide's left and top edge.
    """

    seed: int
    size_um: tuple[float, float]
    tissue: np.ndarray
    tumour: np.ndarray
    nests: np.ndarray
    necrosis: np.ndarray
    fat: np.ndarray
    lymphoid: np.ndarray
    glands: Glands
    vessels: np.ndarray
    fold: np.ndarray
    thickness: np.ndarray
    warp: np.ndarray
    pen: Pen
    outlines: tuple[Polygon, ...]


def build(seed: int, size_um: tuple[float, float], tumour: bool = True) -> Architecture:
    """The anatomy for a seed: the same seed and size give the same, with or without the tumour in it."""
    shape = grid_shape(size_um)

    def chance(part: int) -> np.random.Generator:
        return np.random.default_rng([seed, part])

    tissue_level = _tissue_level(shape, size_um, chance(1))
    tissue = distance_to_border(tissue_level)
    tumour_level = (
        _tumour_level(tissue_level, size_um, chance(2)) if tumour else np.full(shape, -1.0, np.float32)
    )
    tumour_at = _tidied(np.minimum(tumour_level, 0.05 * (tissue - 15))) if tumour else np.full(shape, -90.0)
    fat = _fat(shape, tissue, tumour_at, size_um, chance(3))
    room = np.minimum(tissue - 20, -fat - 15)
    lymphoid = grow_foci(room, tumour_at, size_um, chance(4))
    room = np.minimum(room, np.minimum(-tumour_at - 50, -lymphoid - 15))
    glands = grow_glands(room, size_um, chance(5))
    room = np.minimum(
        np.minimum(tissue - 20, -tumour_at - 10), np.minimum(-glands.depth - 10, -lymphoid - 10)
    )
    vessels = grow_vessels(room, size_um, chance(6))
    necrosis = _necrosis(shape, tumour_at, chance(7))
    return Architecture(
        seed,
        size_um,
        tissue.astype(np.float16),
        tumour_at.astype(np.float16),
        _nests(tumour_at, necrosis, chance(8)).astype(np.float16),
        necrosis.astype(np.float16),
        fat.astype(np.float16),
        lymphoid.astype(np.float16),
        glands,
        vessels.astype(np.float16),
        draw_fold(tissue, size_um, chance(9)).astype(np.float16),
        _thickness(shape, chance(10)).astype(np.float16),
        _warp(shape, chance(11)).astype(np.float16),
        draw_pen(tissue, tumour_at, size_um, chance(12)),
        tuple(trace(tumour_at, SMALLEST_TUMOUR_UM2)) if tumour else (),
    )


def _tissue_level(
    shape: tuple[int, int], size_um: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    x, y = places(shape)
    width, height = size_um
    short = min(size_um)
    pieces = int(rng.integers(1, 3)) if short > 2000 else 1
    turn = rng.uniform(0, np.pi)
    level = np.full(shape, -1.0, np.float32)
    for number in range(pieces):
        side = 0.0 if pieces == 1 else (number - 0.5) * 0.52
        u = x / width - 0.5 - side * np.cos(turn) + rng.uniform(-0.03, 0.03)
        v = y / height - 0.5 - side * np.sin(turn) + rng.uniform(-0.03, 0.03)
        tilt = turn + rng.normal(0, 0.25)
        along, across = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
        long, wide = (0.39, 0.35) if pieces == 1 else (0.21, 0.37)
        radius = np.hypot(along / long, across / wide)
        level = np.maximum(level, (1 - radius) * (0.4 if pieces == 1 else 0.3))
    for wavelength, height_of in ((short / 3, 0.045), (short / 9, 0.022), (260, 0.01), (90, 0.004)):
        level += height_of * min(1, wavelength / short * 40) * smooth_noise(shape, wavelength / CELL_UM, rng)
    rim = np.minimum(np.minimum(x, width - x) / width, np.minimum(y, height - y) / height)
    level = np.minimum(level, (rim - 0.03) * 2 + 0.02 * smooth_noise(shape, short / 7 / CELL_UM, rng))
    level = np.minimum(level, (rim - 0.012) * 2)
    tear = np.abs(smooth_noise(shape, short / 9 / CELL_UM, rng)) - 0.025
    torn = smooth_noise(shape, short / 5 / CELL_UM, rng) - 1.25
    return np.minimum(level, np.maximum(tear, -0.2 * torn) * 0.4)


def _tumour_level(
    tissue_level: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Foci with lobed, invading borders; in units of the radius."""
    shape, short = tissue_level.shape, min(size_um)
    x, y = places(shape)
    deep = np.argwhere(tissue_level > 0.35 * float(tissue_level.max()))
    level = np.full(shape, -1.0, np.float32)
    main = min(0.17 * short, 1900)
    for number in range(int(rng.integers(2, 4))):
        row, column = deep[rng.integers(len(deep))]
        radius = main * (1 if number == 0 else rng.uniform(0.28, 0.6))
        tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.7, 1)
        u, v = x - (column - PAD) * CELL_UM, y - (row - PAD) * CELL_UM
        along, across = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
        level = np.maximum(level, (radius - np.hypot(along, across / flat)) / main)
    level += 0.26 * smooth_noise(shape, main * 0.9 / CELL_UM, rng)
    level += 0.12 * smooth_noise(shape, main * 0.33 / CELL_UM, rng)
    # Fingers of invasion: the same at every size of slide, as cells are.
    return level + min(0.12, 60 / main) * smooth_noise(shape, 150 / CELL_UM, rng)


def _tidied(level: np.ndarray) -> np.ndarray:
    """Distance to the tumour's border, without the specks and pinholes that nobody would outline."""
    distance: np.ndarray = distance_to_border(ndimage.gaussian_filter(level, 1.2))
    smallest = SMALLEST_TUMOUR_UM2 / CELL_UM**2
    for sign, few in ((1, smallest), (-1, smallest / 2)):
        found: Any = ndimage.label(distance * sign > 0)
        parts, count = found
        if not count:
            continue
        small = np.flatnonzero(np.bincount(parts.ravel())[1:] < few) + 1
        specks = np.asarray(ndimage.binary_dilation(np.isin(parts, small), iterations=2), dtype=bool)
        distance[specks] = np.minimum(distance[specks], -8) if sign > 0 else np.maximum(distance[specks], 8)
    return distance


def _nests(tumour: np.ndarray, necrosis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = tumour.shape
    size = 1 + 0.35 * smooth_noise(shape, 900 / CELL_UM, rng)
    pattern = smooth_noise(shape, 120 / CELL_UM, rng) + 0.45 * smooth_noise(shape, 55 / CELL_UM, rng)
    septa = np.abs(pattern) - 0.2 * np.clip(size, 0.3, 2)
    gaps = 1.35 - smooth_noise(shape, 240 / CELL_UM, rng)
    inside = distance_to_border(np.minimum(septa, gaps))
    return np.minimum(np.minimum(inside, tumour - 2), -necrosis)


def _necrosis(shape: tuple[int, int], tumour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    level = smooth_noise(shape, 420 / CELL_UM, rng) + 0.25 * smooth_noise(shape, 90 / CELL_UM, rng) - 1.5
    return np.minimum(distance_to_border(level), tumour - 60)


def _fat(
    shape: tuple[int, int],
    tissue: np.ndarray,
    tumour: np.ndarray,
    size_um: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    short = min(size_um)
    level = smooth_noise(shape, short / 3.5 / CELL_UM, rng) + 0.35 * smooth_noise(shape, 300 / CELL_UM, rng)
    # Some fat on every slide: its border lies where a sixth of the tissue is above it.
    in_tissue = level[tissue > 0]
    level = level - np.quantile(in_tissue, 0.84) + 0.12 * smooth_noise(shape, 110 / CELL_UM, rng)
    return np.minimum(distance_to_border(level), -tumour - 12)


def _thickness(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return np.exp(
        0.09 * smooth_noise(shape, 1500 / CELL_UM, rng) + 0.04 * smooth_noise(shape, 250 / CELL_UM, rng)
    )


def _warp(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return np.stack(
        [
            90 * smooth_noise(shape, 2200 / CELL_UM, rng) + 6 * smooth_noise(shape, 260 / CELL_UM, rng)
            for _ in range(2)
        ]
    )
