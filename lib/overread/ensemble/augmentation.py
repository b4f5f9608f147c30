"""Variations of a training patch.

`augment` is nnU-Net's default: Isensee et al. 2021 (Nature Methods 18:203), supplementary note 4: order, probabilities
and ranges. `augment_lightly` changes every patch a little: what networks learn by in a few hundred steps.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from overread.ensemble.plan import COARSE, Plan
from overread.ensemble.stain import vary_stain

ROTATION = 0.2
SCALING = 0.2
NOISE = 0.1
BLUR = 0.2
BRIGHTNESS = 0.15
CONTRAST = 0.15
LOW_RESOLUTION = 0.25
GAMMA_INVERTED = 0.1
GAMMA = 0.3
MIRROR = 0.5
# Of the light augmentation: degrees either way, scale, and of brightness what is multiplied and added (values whose
# standard deviation is 1; of RGB only the first, and less).
LIGHT_ROTATION = 30.0
LIGHT_SCALE = (0.85, 1.15)
LIGHT_FACTOR = 0.2
LIGHT_OFFSET = 0.2
LIGHT_RGB_FACTOR = 0.1
# Degrees either way: volumes turn a little, pictures and the plane of thick slices turn freely.
VOLUME_ROTATION = 30.0
PLANE_ROTATION = 180.0
SCALE = (0.7, 1.4)
SMALLEST_RANGE = 1e-7
# Noise of up to 0.3 suits channels whose standard deviation is 1; that of RGB in [0, 1] is about a sixth.
RGB_NOISE = 1 / 6


def augment(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One patch, varied: `(channel, *patch)` float and `(*patch)` integer. The inputs stay as they are.

    RGB stays between black (0) and white (1); its noise is that of a camera, its stains vary as the plan says.
    """
    image, label = _rotate_and_scale(image, label, plan, generator)
    if plan.stain > 0:
        image = vary_stain(image, plan.stain, generator)
    if _chance(NOISE, generator):
        std = _between(0, 0.1, generator) ** 0.5 * (RGB_NOISE if plan.is_rgb else 1.0)
        image = image + std * torch.randn(image.shape, generator=generator)
    if _chance(BLUR, generator):
        image = _blur(image, _between(0.5, 1.0, generator))
    if _chance(BRIGHTNESS, generator):
        image = image * _between(0.75, 1.25, generator)
    if _chance(CONTRAST, generator):
        image = _contrast(image, _between(0.75, 1.25, generator))
    if _chance(LOW_RESOLUTION, generator):
        image = _low_resolution(image, _between(0.5, 1.0, generator))
    if _chance(GAMMA_INVERTED, generator):
        image = -_gamma(-image, _between(0.7, 1.5, generator))
    if _chance(GAMMA, generator):
        image = _gamma(image, _between(0.7, 1.5, generator))
    if plan.is_rgb:
        image = image.clamp(0, 1)
    return _mirror(image, label, plan, generator)


def augment_lightly(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `augment`: every patch turned, scaled, brightened a little and mirrored, and nothing else."""
    mm = _rotation(plan, generator, LIGHT_ROTATION)
    image, label = _resampled(image, label, plan, mm * _scale(plan, generator, LIGHT_SCALE))
    if plan.stain > 0:
        image = vary_stain(image, plan.stain, generator)
    if plan.is_rgb:
        image = (image * _between(1 - LIGHT_RGB_FACTOR, 1 + LIGHT_RGB_FACTOR, generator)).clamp(0, 1)
    else:
        image = image * _between(1 - LIGHT_FACTOR, 1 + LIGHT_FACTOR, generator)
        image = image + _between(-LIGHT_OFFSET, LIGHT_OFFSET, generator)
    return _mirror(image, label, plan, generator)


def _mirror(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    mirrored = [axis for axis in plan.mirror_axes if _chance(MIRROR, generator)]
    if mirrored:
        image = image.flip([axis + 1 for axis in mirrored])
        label = label.flip(mirrored)
    return image, label


def _rotate_and_scale(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    turns, scales = _chance(ROTATION, generator), _chance(SCALING, generator)
    if not turns and not scales:
        return image, label
    most = PLANE_ROTATION if len(_planes(plan)) == 1 else VOLUME_ROTATION
    mm = _rotation(plan, generator, most) if turns else torch.eye(plan.axes)
    if scales:
        mm = mm * _scale(plan, generator, SCALE)
    return _resampled(image, label, plan, mm)


def _scale(plan: Plan, generator: torch.Generator, scale: tuple[float, float]) -> torch.Tensor:
    """A factor an axis; sampling positions that lie farther apart show the patch smaller."""
    factor = torch.full((plan.axes,), 1 / _between(*scale, generator))
    if (coarse := _coarse_axis(plan)) is not None:
        factor[coarse] = 1
    return factor


def _resampled(
    image: torch.Tensor, label: torch.Tensor, plan: Plan, mm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label seen through a linear map of millimetres around the patch's centre."""
    axes = plan.axes
    spacing = torch.tensor(plan.spacing_mm)
    half = torch.tensor(label.shape) / 2
    # From millimetres to voxels to grid_sample's -1..1, whose axes run in the opposite order.
    theta = (mm * spacing / spacing[:, None] * half / half[:, None]).flip(0, 1)
    theta = torch.cat([theta, torch.zeros(axes, 1)], dim=1)[None]
    grid = F.affine_grid(theta, [1, 1, *label.shape], align_corners=False)
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved_label = F.grid_sample(
        label[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return moved[0], moved_label[0, 0].round().to(label.dtype)


def _planes(plan: Plan) -> list[tuple[int, int]]:
    """In which planes patches are turned: within the slices only where they are thick."""
    coarse = _coarse_axis(plan)
    planes = [(0, 1), (0, 2), (1, 2)] if plan.axes == 3 else [(0, 1)]
    return [plane for plane in planes if coarse not in plane]


def _rotation(plan: Plan, generator: torch.Generator, most: float) -> torch.Tensor:
    """A rotation in millimetres, by at most so many degrees in each plane."""
    matrix = torch.eye(plan.axes)
    for first, second in _planes(plan):
        angle = math.radians(_between(-most, most, generator))
        turn = torch.eye(plan.axes)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _coarse_axis(plan: Plan) -> int | None:
    """The axis across thick slices, if there is one: nothing is interpolated along it."""
    coarse = max(range(plan.axes), key=lambda axis: plan.spacing_mm[axis])
    thick = plan.axes == 3 and plan.spacing_mm[coarse] > COARSE * min(plan.spacing_mm)
    return coarse if thick else None


def _blur(image: torch.Tensor, sigma_voxel: float) -> torch.Tensor:
    reach = math.ceil(3 * sigma_voxel)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma_voxel) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(1, image.ndim):
        if image.shape[axis] == 1:
            continue
        lines = image.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return image


def _contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    dims = tuple(range(1, image.ndim))
    mean = image.mean(dim=dims, keepdim=True)
    low, high = image.amin(dim=dims, keepdim=True), image.amax(dim=dims, keepdim=True)
    return ((image - mean) * factor + mean).clamp(low, high)


def _low_resolution(image: torch.Tensor, factor: float) -> torch.Tensor:
    small = [max(1, round(n * factor)) for n in image.shape[1:]]
    coarse = F.interpolate(image[None], size=small, mode="nearest-exact")
    smooth = "trilinear" if image.ndim == 4 else "bilinear"
    return F.interpolate(coarse, size=image.shape[1:], mode=smooth, align_corners=False)[0]


def _gamma(image: torch.Tensor, exponent: float) -> torch.Tensor:
    """Bend the grey scale; each channel keeps its mean and standard deviation."""
    dims = tuple(range(1, image.ndim))
    mean, std = image.mean(dim=dims, keepdim=True), image.std(dim=dims, keepdim=True)
    low = image.amin(dim=dims, keepdim=True)
    reach = (image.amax(dim=dims, keepdim=True) - low).clamp_min(SMALLEST_RANGE)
    bent = ((image - low) / reach) ** exponent
    return (bent - bent.mean(dim=dims, keepdim=True)) / bent.std(dim=dims, keepdim=True).clamp_min(
        SMALLEST_RANGE
    ) * std + mean


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < probability


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))
