"""Randomness that depends on place and seed alone, so that the order in which tiles are made does not matter."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

# Constants of splitmix64 (Steele, Lea & Flood 2014), a mixer whose output passes the usual tests of randomness.
_STEP, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hashed_uniform(columns: np.ndarray, rows: np.ndarray, stream: int, seed: int) -> np.ndarray:
    """A number in [0, 1) for each pair of whole numbers, the same wherever and whenever it is asked for.

    Args:
        columns, rows: whole numbers of one shape.
        stream: another stream gives independent numbers at the same places.
    """
    with np.errstate(over="ignore"):
        mixed = np.asarray(columns, np.int64).astype(np.uint64) * _STEP
        for part in (np.asarray(rows, np.int64).astype(np.uint64), np.uint64(stream), np.uint64(seed)):
            mixed = _mixed(mixed ^ (part + _STEP))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(number: np.ndarray) -> np.ndarray:
    number = (number + _STEP).astype(np.uint64)
    number = (number ^ (number >> np.uint64(30))) * _MIX_1
    number = (number ^ (number >> np.uint64(27))) * _MIX_2
    return number ^ (number >> np.uint64(31))


def smooth_noise(shape: tuple[int, ...], wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """Hills and valleys of about one wavelength (in cells): mean 0, standard deviation near 1; float32 of `shape`."""
    step = max(1.0, wavelength / 8)
    width = 0.19 * wavelength / step
    margin = int(np.ceil(3 * width)) + 2
    coarse = tuple(int(np.ceil(edge / step)) + 2 * margin for edge in shape)
    # A Gaussian has no direction: noise from a lattice alone would show its rows and columns.
    hills = gaussian_filter(rng.standard_normal(coarse).astype(np.float32), width, truncate=3)
    box = (margin, margin, margin + shape[1] / step, margin + shape[0] / step)
    # White noise blurred like this has a standard deviation of 1 / (2 sqrt(pi) width).
    magnified = Image.fromarray(hills).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(magnified) * np.float32(2 * np.sqrt(np.pi) * width)


def periodic_noise(edge: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise blurred by a Gaussian of `scale` pixels that repeats without a seam; (edge, edge), mean 0, deviation 1."""
    frequency = np.fft.fftfreq(edge)[:, None] ** 2 + np.fft.rfftfreq(edge)[None] ** 2
    spectrum = np.fft.rfft2(rng.standard_normal((edge, edge))) * np.exp(-2 * (np.pi * scale) ** 2 * frequency)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (edge, edge))
    return (noise / noise.std()).astype(np.float32)
