"""What is on slides and is not tissue: folds of the section, a pen's strokes on the glass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.studies.slides.fields import CELL_UM, FAR_UM, places
from overread.studies.slides.noise import smooth_noise

# Optical density (red, green, blue) of felt-tip inks.
INKS = ((1.1, 0.62, 0.16), (0.85, 0.3, 0.62), (0.8, 0.82, 0.78))


@dataclass(frozen=True, eq=False)
class Pen:
    """Strokes of one pen.

    Attributes:
        cover: (rows, columns) share of the ink's density, 0 without ink.
        ink: density in red, green and blue.
    """

    cover: np.ndarray
    ink: tuple[float, float, float]


def draw_fold(tissue: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """µm to the border of a long, thin, curved band, positive inside it; two slides in three have one."""
    shape, short = tissue.shape, min(size_um)
    x, y = places(shape)
    turn, has_fold = rng.uniform(0, np.pi), rng.random() < 0.67
    middle = [edge * rng.uniform(0.35, 0.65) for edge in size_um]
    u, v = x - middle[0], y - middle[1]
    along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    across = across + 0.03 * short * smooth_noise(shape, short / 3 / CELL_UM, rng)
    across += 9 * smooth_noise(shape, 200 / CELL_UM, rng)
    half = min(45, 0.012 * short) * (1 - (along / (0.3 * short)) ** 2)
    return (
        np.clip(np.minimum(half - np.abs(across), tissue), -FAR_UM, FAR_UM)
        if has_fold
        else np.full(shape, -FAR_UM)
    )


def draw_pen(
    tissue: np.ndarray, tumour: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator
) -> Pen:
    """A line beside the tissue and one that runs into it, as people mark slides; two slides in three have them."""
    shape, short = tissue.shape, min(size_um)
    ink, has_pen = INKS[rng.integers(len(INKS))], rng.random() < 0.67
    cover = np.zeros(shape, np.float32)
    if not has_pen:
        return Pen(cover.astype(np.float16), ink)
    x, y = places(shape)
    half = min(0.017 * short, 260)
    streaks = smooth_noise(shape, 160 / CELL_UM, rng)
    for _ in range(2):
        # Circles about the middle of the slide cut its border where the tissue's corners are.
        turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.46) * short
        u, v = x - size_um[0] / 2 - far * np.cos(turn), y - size_um[1] / 2 - far * np.sin(turn)
        tilt = turn + np.pi / 2 + rng.normal(0, 0.5)
        along, across = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
        across = across + (along / short) ** 2 * short * rng.uniform(-0.6, 0.6) + 0.3 * half * streaks * 0.2
        length = rng.uniform(0.1, 0.19) * short
        depth = np.minimum(half - np.abs(across), length - np.abs(along))
        rim = np.exp(-(((depth - 0.15 * half) / (0.2 * half)) ** 2))
        stroke = np.clip(depth / (0.18 * half) + 0.5, 0, 1) * (0.62 + 0.07 * streaks + 0.25 * rim)
        cover = np.maximum(cover, stroke)
    return Pen(np.clip(cover, 0, 1).astype(np.float16), ink)
