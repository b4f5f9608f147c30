"""How tissue is coloured, and pictures in the colours of another laboratory.

Colours are the second moments of the optical densities of red, green and blue, without their means, so that glass stays
white; one laboratory's become another's by a linear map of the densities, of all such maps the one that moves them
least (Pitié & Kokaram 2007, doi:10.1049/cp:20070055).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Black has no finite density; one grey level of 8 bits is as dark as it gets.
DARKEST = 1 / 255
# Mean optical density (natural logarithm) below which a pixel is glass, and what every colour varies at least, so that
# a map is found.
GLASS_DENSITY = 0.05
LEAST_MOMENT = 1e-3
# A picture's colours are measured on about so many pixels.
MEASURED_PIXELS = 10_000

_DENSITIES = -np.log(np.maximum(np.arange(256) / 255, DARKEST)).astype(np.float32)


def densities_of(picture: np.ndarray) -> np.ndarray:
    """Optical densities (natural logarithm) of uint8 values, of the same shape, float32."""
    return _DENSITIES[picture]


def moments_of(densities: np.ndarray) -> np.ndarray:
    """How tissue is coloured: second moments `(3, 3)` of densities `(3, pixels)`; glass is left out."""
    every = max(1, densities.shape[1] // MEASURED_PIXELS)
    measured = densities[:, ::every].astype(np.float64)
    tissue = measured[:, measured.mean(axis=0) > GLASS_DENSITY]
    if tissue.shape[1] < 2:
        tissue = measured
    return tissue @ tissue.T / tissue.shape[1] + LEAST_MOMENT * np.eye(3)


def map_between(now: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The matrix `(3, 3)` on densities that gives moments `now` the values of `wanted`."""
    root, inverse = _power(now, 0.5), _power(now, -0.5)
    return inverse @ _power(root @ wanted @ root, 0.5) @ inverse


def recoloured(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture `(row, column, 3)` uint8 whose densities went through a matrix of `map_between`."""
    densities = densities_of(picture) @ matrix.T.astype(np.float32)
    return np.rint(np.exp(-densities).clip(0, 1) * 255).astype(np.uint8)


def mean_moments(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of the colours of several pictures `(row, column, 3)` uint8; at least one."""
    found = [moments_of(densities_of(picture).reshape(-1, 3).T) for picture in pictures]
    return np.mean(found, axis=0)


def _power(moments: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(moments)
    return (vectors * values.clip(1e-12) ** exponent) @ vectors.T
