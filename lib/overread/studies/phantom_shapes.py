"""Shapes as signed distances in millimetres, and smooth random fields: what phantoms are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# Voxels are about this thick across an edge: within it a surface leaves part of each tissue in the voxel.
EDGE_MM = 2.4


def ellipsoid(points_mm: np.ndarray, centre_mm: Sequence[float], semi_axes_mm: Sequence[float]) -> np.ndarray:
    """Distance to an ellipsoid's surface, negative inside; first-order approximation (exact for spheres).

    Args:
        points_mm: `(axis, *space)`; two axes make an endless elliptic cylinder along the third.
        centre_mm: one coordinate an axis.
        semi_axes_mm: one length an axis.
    """
    tiny = 1e-3
    semi = _column(semi_axes_mm, points_mm)
    unit = (points_mm - _column(centre_mm, points_mm)) / semi
    radius = np.sqrt((unit**2).sum(axis=0))
    slope = np.sqrt(((unit / semi) ** 2).sum(axis=0))
    return (radius * (radius - 1) - tiny) / (slope + tiny / min(semi_axes_mm))


def tube(
    points_mm: np.ndarray,
    start_mm: np.ndarray,
    end_mm: np.ndarray,
    start_radius_mm: float,
    end_radius_mm: float,
) -> np.ndarray:
    """Distance to a round-ended tube between two points whose radius changes along the way."""
    along = end_mm - start_mm
    relative = points_mm - _column(start_mm, points_mm)
    share = np.clip(np.tensordot(along, relative, axes=1) / float(along @ along), 0, 1)
    away = np.sqrt(((relative - _column(along, points_mm) * share) ** 2).sum(axis=0))
    return away - (start_radius_mm + (end_radius_mm - start_radius_mm) * share)


def melt(first_mm: np.ndarray, second_mm: np.ndarray, softness_mm: float) -> np.ndarray:
    """Union of two shapes with a rounded seam."""
    return -softness_mm * np.logaddexp(-first_mm / softness_mm, -second_mm / softness_mm)


def share_inside(distance_mm: np.ndarray, edge_mm: float = EDGE_MM) -> np.ndarray:
    """Share of each voxel that lies inside a shape, in [0, 1]: the partial volume effect."""
    return np.clip(0.5 - distance_mm / edge_mm, 0, 1)


def smooth_field(
    shape: Sequence[int], spacing_mm: Sequence[float], wavelength_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Random field `(*space)` of mean 0 and standard deviation 1 that changes over about `wavelength_mm`."""
    weights = [
        _spline_weights(n, step / (wavelength_mm / 2)) for n, step in zip(shape, spacing_mm, strict=True)
    ]
    field = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    for axis_weights in weights:
        # Contracts the first axis and appends the fine one: after three turns the axes are in order again.
        field = np.tensordot(field, axis_weights, axes=(0, 1))
    return (field - field.mean()) / field.std()


def _spline_weights(count: int, step_knots: float) -> np.ndarray:
    """Cubic B-spline weights `(position, knot)` at positions `step_knots` apart."""
    position = 1 + step_knots * np.arange(count)
    away = np.abs(position[:, None] - np.arange(int(position[-1]) + 3))
    near, far = 2 / 3 - away**2 + away**3 / 2, (2 - away).clip(0) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def ct_noise(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Noise `(*space)` of standard deviation 1 with the blobby in-plane grain of filtered back-projection.

    White noise, shaped in each slice by a ramp that a reconstruction kernel damps (few very low and few very
    high frequencies), and shared a little between neighbouring slices.
    """
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    kernel = frequency * np.exp(-((frequency / 0.22) ** 2)) + 0.01
    white = np.fft.rfft2(rng.standard_normal(shape), axes=(0, 1))
    grain = np.fft.irfft2(white * kernel[..., None], s=(shape[0], shape[1]), axes=(0, 1))
    grain = ndimage.gaussian_filter1d(grain, 0.5, axis=2)
    return (grain / grain.std()).astype(np.float32)


def _column(values: Sequence[float] | np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1, *[1] * (points_mm.ndim - 1))
