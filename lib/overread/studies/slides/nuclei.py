"""Cells as a microscope shows them: small pictures of nuclei that a slide is stamped with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

# How many pictures each kind has; oriented kinds have them at evenly spaced angles.
VARIANTS = 192


@dataclass(frozen=True, eq=False)
class Stamp:
    """One cell, to lay over what is there: `dyes * keep + add`, both (2, rows, columns) float32."""

    keep: np.ndarray
    add: np.ndarray


@dataclass(frozen=True)
class NucleusKind:
    """How the nuclei of one sort of cell look.

    Attributes:
        length_um, width_um: mean axes.
        variation: relative standard deviation of size.
        irregularity: relative amplitude of dents in the outline.
        darkness: concentration of haematoxylin, lowest and highest.
        clumps: how uneven the chromatin is.
        rim: how much darker the membrane is, for vesicular nuclei with a clear middle.
        nucleoli: most of them in one nucleus.
        is_oriented: whether variants are turned evenly through half a circle.
    """

    length_um: float
    width_um: float
    variation: float
    irregularity: float
    darkness: tuple[float, float]
    clumps: float
    rim: float = 0.0
    nucleoli: int = 0
    is_oriented: bool = False


# Sizes after Junqueira's Basic Histology: lymphocyte 6-7 µm; fibroblast thin, 12-18 µm long; tumour cells of high
# grade have nuclei more than twice as large as normal epithelium's, varied, vesicular, with prominent nucleoli.
KINDS: dict[str, NucleusKind] = {
    "tumour": NucleusKind(11.6, 8.8, 0.2, 0.09, (0.3, 0.56), 0.26, 0.42, 2),
    "giant": NucleusKind(16.5, 12.5, 0.18, 0.13, (0.42, 0.7), 0.3, 0.35, 3),
    "lymphocyte": NucleusKind(6.9, 6.4, 0.07, 0.03, (0.58, 0.74), 0.34),
    "epithelium": NucleusKind(8.2, 5.6, 0.08, 0.03, (0.44, 0.56), 0.16, 0.1, 0, True),
    "fibroblast": NucleusKind(15.0, 2.9, 0.22, 0.06, (0.4, 0.58), 0.16, 0.0, 0, True),
}


@lru_cache(maxsize=4)
def stamps(um_per_px: float) -> dict[str, tuple[Stamp, ...]]:
    """Pictures of every kind at this pixel size, and of red cells (`erythrocyte`) and mitoses (`mitosis`)."""
    made = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        rng = np.random.default_rng([7, number])
        angles = [np.pi * n / VARIANTS for n in range(VARIANTS)]
        made[name] = tuple(
            draw_nucleus(kind, angle if kind.is_oriented else rng.uniform(0, np.pi), um_per_px, rng)
            for angle in angles
        )
    rng = np.random.default_rng([7, 99])
    made["erythrocyte"] = tuple(_erythrocyte(um_per_px, rng) for _ in range(16))
    made["mitosis"] = tuple(_mitosis(um_per_px, rng) for _ in range(16))
    return made


def draw_nucleus(kind: NucleusKind, angle: float, um_per_px: float, rng: np.random.Generator) -> Stamp:
    """One nucleus of a kind, its long axis at `angle` (radians from the columns' axis towards the rows')."""
    size = np.clip(rng.normal(1, kind.variation), 0.6, 1.9)
    length, width = kind.length_um * size, kind.width_um * size * rng.uniform(0.88, 1.1)
    dents = [(k, rng.normal(0, kind.irregularity / k**0.5), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)]
    depth, along, across = _depth(length, width, angle, lambda turn: _dented(turn, dents), um_per_px)
    inside = _soft(depth, 0.55)
    grain = gaussian_filter(rng.standard_normal(depth.shape), 0.55 / um_per_px)
    chromatin = 1 + kind.clumps * grain / max(float(grain.std()), 1e-6)
    chromatin += kind.rim * (1.1 * np.exp(-(((depth - 0.6) / 0.75) ** 2)) - 0.5 * _soft(depth - 1.6, 1.0))
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        spot = rng.normal(0, 0.16, 2) * (length, width)
        far = np.hypot(along - spot[0], across - spot[1])
        chromatin += 0.85 * _soft(rng.uniform(0.7, 1.3) - far, 0.4)
    density = rng.uniform(*kind.darkness) * np.clip(chromatin, 0.3, 2.2)
    return _stamp(inside, 0.72 * inside, density, 0.05)


def _erythrocyte(um_per_px: float, rng: np.random.Generator) -> Stamp:
    depth, _, _ = _depth(
        rng.uniform(6, 7.4), rng.uniform(5, 7), rng.uniform(0, np.pi), lambda t: 1 + 0 * t, um_per_px
    )
    inside = _soft(depth, 0.5)
    return _stamp(inside, inside, np.full_like(depth, 0.03), 0.42 - 0.1 * _soft(depth - 1.8, 0.8))


def _mitosis(um_per_px: float, rng: np.random.Generator) -> Stamp:
    dents = [(k, rng.normal(0, 0.16), rng.uniform(0, 2 * np.pi)) for k in (3, 5, 7, 9)]
    depth, _, _ = _depth(10.5, 4.2, rng.uniform(0, np.pi), lambda turn: _dented(turn, dents), um_per_px)
    halo = _soft(depth + 3.2, 1.6)
    plate = _soft(depth, 0.4)
    keep = np.stack([1 - 0.6 * halo, 1 - 0.35 * halo])
    return Stamp(keep.astype(np.float32), np.stack([0.95 * plate, 0.02 * plate]).astype(np.float32))


def _depth(
    length: float, width: float, angle: float, outline: Callable[[np.ndarray], np.ndarray], um_per_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """µm below the outline of a dented ellipse, and the places along and across it."""
    reach = int(np.ceil((length * 0.75 + 3.5) / um_per_px))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1] * um_per_px
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    turn = np.arctan2(across / width, along / length)
    edge = outline(turn)
    radius = np.hypot(along / length, across / width) * 2
    # Distance along the ray, which is close to the distance itself except at the tips of thin nuclei.
    slope = np.hypot(along, across) / np.maximum(radius, 1e-6)
    return (edge - radius) * np.maximum(slope, width / 2), along, across


def _dented(turn: np.ndarray, dents: list[tuple[int, float, float]]) -> np.ndarray:
    waves = [height * np.cos(k * turn + phase) for k, height, phase in dents]
    return np.sum([np.ones_like(turn), *waves], axis=0)


def _soft(depth: np.ndarray, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(depth * 2.5 / width, -30, 30)))


def _stamp(
    inside: np.ndarray, covered: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray | float
) -> Stamp:
    keep = np.stack([1 - covered, 1 - 0.8 * inside])
    return Stamp(
        keep.astype(np.float32), np.stack([inside * haematoxylin, inside * eosin]).astype(np.float32)
    )
