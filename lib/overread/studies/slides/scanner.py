"""From dye in the tissue to the picture that a scanner saves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from overread.studies.slides.centres import Centre

# Pixels that are computed around a tile, so that blur and sharpening do not see where it ends.
MARGIN_PX = 8


def scan(
    dyes: np.ndarray, ink: np.ndarray | None, centre: Centre, um_per_px: float, noise_offset: int
) -> np.ndarray:
    """The picture of stained tissue: Beer and Lambert's law, then the scanner's optics, colours and noise.

    Args:
        dyes: (2, rows, columns) float32 concentration of haematoxylin and eosin, with `MARGIN_PX` around it.
        ink: density (3, rows, columns) of a pen on the glass; None without.
        noise_offset: where in the noise to begin.

    Returns:
        (rows, columns, 3) uint8 without the margin.
    """
    matrix, scanner = centre.stain.matrix, centre.scanner
    sigma = min(scanner.blur_um / um_per_px, MARGIN_PX / 3)
    light = []
    for channel in range(3):
        density = dyes[0] * matrix[0, channel]
        density += dyes[1] * matrix[1, channel]
        if ink is not None:
            density += ink[channel]
        density *= -np.log(10)
        seen = np.exp(density, out=density)
        if sigma > 0.2:
            seen = gaussian_filter(seen, sigma, truncate=2.5)
        if scanner.sharpen:
            seen += scanner.sharpen * (seen - gaussian_filter(seen, 1.2, truncate=2.5))
        light.append(_without_margin(seen))
    grey = sum(light) / 3
    noise = _noise(light[0].shape, noise_offset)
    picture = np.empty((*light[0].shape, 3), np.uint8)
    for channel, seen in enumerate(light):
        seen = grey + (seen - grey) * scanner.saturation
        np.clip(seen, 1e-4, 1.03, out=seen)
        if scanner.gamma[channel] != 1:
            seen = np.exp(np.log(seen) * np.float32(scanner.gamma[channel]))
        seen *= scanner.glass[channel]
        seen += noise * np.float32(scanner.noise)
        np.clip(seen, 0, 255, out=seen)
        picture[..., channel] = seen + 0.5
    return picture


def _without_margin(tile: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tile[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(1 << 22).astype(np.float32)


def _noise(shape: tuple[int, int], offset: int) -> np.ndarray:
    count = shape[0] * shape[1]
    bank = _noise_bank()
    first = offset % (len(bank) - count)
    return bank[first : first + count].reshape(shape)
