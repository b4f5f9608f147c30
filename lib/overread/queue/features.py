"""What an image looks like, in a few dozen numbers: near duplicates get nearly the same ones."""

from __future__ import annotations

import numpy as np

from overread.ensemble.orientation import canonical_axes, to_canonical
from overread.imaging.volumes import Volume

PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
# Darker and brighter voxels than these percentiles are cut: metal and padding must not set the scale.
DARKEST, BRIGHTEST = 1, 99
# Percentiles are taken from about so many voxels.
PERCENTILE_VOXELS = 500_000
# Blocks per axis of the small image that gradients are taken on.
SMALL = 24
# Blocks per axis of the coarse content.
COARSE = 3
# Differences that do not count: what noise, another reconstruction or a cut edge makes. One unit of each feature.
INTENSITY_TOLERANCE = 0.1
PERCENTILE_TOLERANCE = 0.02
EXTENT_TOLERANCE = 0.25
SPACING_TOLERANCE = 0.05
CONTENT_TOLERANCE = 0.08
GRADIENT_TOLERANCE = 0.005
# Range and offset, percentiles, extent and spacing, coarse content, gradients.
LENGTH = 2 + len(PERCENTILES) + 6 + COARSE**3 + 5


def image_features(volume: Volume) -> np.ndarray:
    """Where an image lies among others, `(LENGTH,)` float64, finite. Seconds for a large CT.

    The mean over channels, turned to the patient's axes, so that the way of storing does not matter. In this order:

    - range of the intensities (1st to 99th percentile), as inverse hyperbolic sine, and where it begins, in ranges;
    - percentiles after scaling by that range;
    - extent in mm and spacing in mm along each axis, as logarithms (0 for the third axis of a picture);
    - mean of each of 3 x 3 x 3 blocks of the scaled image: what lies where, roughly;
    - gradients of the image made small: mean magnitude along each axis, median and 90th percentile of the whole.

    Each is divided by a difference that does not count, so that 1 is a small step of any of them; whoever measures
    distances between cases standardises further by how much the cases at hand differ.
    """
    axes, flips = canonical_axes(volume.grid)
    grey = volume.voxels[0] if len(volume.voxels) == 1 else volume.voxels.mean(axis=0)
    grey = to_canonical(grey[None], axes, flips)[0]
    spacing_mm = np.array([volume.grid.spacing_mm[axis] for axis in axes])
    extent_mm = spacing_mm * grey.shape

    some = _some_voxels(grey)
    dark, bright = np.percentile(some, (DARKEST, BRIGHTEST))
    range_ = float(bright - dark)
    scale = range_ or 1.0
    scaled = np.clip((some - dark) / scale, 0, 1)

    small = np.clip((block_means(grey, SMALL) - dark) / scale, 0, 1)
    coarse = block_means(small, COARSE)
    # A picture, or fewer voxels than blocks: each voxel stands for several blocks.
    coarse = coarse.reshape(coarse.shape + (1,) * (3 - coarse.ndim))
    coarse = coarse[np.ix_(*(np.arange(COARSE) * n // COARSE for n in coarse.shape))]
    slopes = [np.diff(small, axis=axis) for axis in range(small.ndim)]
    along = [float(np.abs(slope).mean()) if slope.size else 0.0 for slope in slopes]
    steepness = np.concatenate([np.abs(slope).ravel() for slope in slopes])
    middle, steep = np.percentile(steepness, (50, 90)) if steepness.size else (0.0, 0.0)

    third = [0.0] * (3 - grey.ndim)
    parts = [
        ([np.arcsinh(range_), np.clip(dark / scale, -10, 10)], INTENSITY_TOLERANCE),
        (np.percentile(scaled, PERCENTILES), PERCENTILE_TOLERANCE),
        ([*np.log(extent_mm), *third], EXTENT_TOLERANCE),
        ([*np.log(spacing_mm), *third], SPACING_TOLERANCE),
        (coarse.ravel(), CONTENT_TOLERANCE),
        ([*along, *third, middle, steep], GRADIENT_TOLERANCE),
    ]
    return np.concatenate([np.asarray(numbers, dtype=np.float64) / one for numbers, one in parts])


def block_means(image: np.ndarray, blocks: int) -> np.ndarray:
    """Means over about equal blocks, at most `blocks` along each axis; axes with fewer voxels stay as they are."""
    for axis, size in enumerate(image.shape):
        count = min(blocks, size)
        starts = np.arange(count) * size // count
        lengths = np.diff([*starts, size]).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
        image = np.add.reduceat(image, starts, axis=axis, dtype=np.float32) / lengths.astype(np.float32)
    return image


def _some_voxels(image: np.ndarray) -> np.ndarray:
    """About `PERCENTILE_VOXELS` voxels from all over, or all of them."""
    step = max(1, int(np.ceil((image.size / PERCENTILE_VOXELS) ** (1 / image.ndim))))
    return image[(slice(None, None, step),) * image.ndim].ravel()
