"""From a volume in the patient's orientation to what the members see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.ensemble.ensemble import Interpolation, Prepared
from overread.ensemble.orientation import canonical_axes, nonzero_box, to_canonical
from overread.ensemble.plan import Normalisation, Plan
from overread.imaging.volumes import Volume

# nnU-Net treats an axis apart when its spacing is more than three times the finest.
ANISOTROPY = 3.0
SMALLEST_STD = 1e-8


def prepare(plan: Plan, volume: Volume) -> Prepared:
    """Turn to the closest RAS axes, crop to non-zero, normalise, resample to the plan's spacing.

    Raises:
        BadInputError: the volume has another number of channels or axes than the plan.
    """
    space = len(volume.grid.shape)
    if space != plan.axes:
        raise BadInputError(f"the volume is {space}-D, the model was trained on {plan.axes}-D images")
    if len(volume.voxels) != len(plan.normalisation):
        raise BadInputError(
            f"the volume has {len(volume.voxels)} channels, the model was trained on {len(plan.normalisation)}"
        )
    axes, flips = canonical_axes(volume.grid)
    voxels = to_canonical(volume.voxels, axes, flips)
    crop = nonzero_box(voxels)
    voxels = voxels[(slice(None), *(slice(*edge) for edge in crop))]
    normalised = normalise(plan.normalisation, torch.from_numpy(np.array(voxels, dtype=np.float32)))
    interpolation = interpolation_between(plan, volume.grid, axes)
    shape = model_shape(plan, volume.grid, axes, normalised.shape[1:])
    return Prepared(
        voxels=resample_image(normalised, shape, interpolation),
        input_grid=volume.grid,
        axes=axes,
        flips=flips,
        crop=crop,
        interpolation=interpolation,
    )


def prepare_labels(labels: np.ndarray, prepared: Prepared, classes: int) -> torch.Tensor:
    """Bring labels `(*space)` on the volume's grid to `(*model_space)` uint8, the way the volume went.

    Where voxels become fewer or more, the class with the largest share wins; `IGNORE` wins ties, so that no label is
    made up where nobody labelled.
    """
    turned = to_canonical(labels[None], prepared.axes, prepared.flips)[0]
    cut = torch.from_numpy(np.array(turned[tuple(slice(*edge) for edge in prepared.crop)], dtype=np.int64))
    shape = tuple(prepared.voxels.shape[1:])
    if tuple(cut.shape) == shape:
        return cut.to(torch.uint8)
    # The class whose resampled indicator is largest; one class at a time keeps memory at two volumes.
    best = torch.full(shape, -1.0)
    winner = torch.zeros(shape, dtype=torch.uint8)
    for index in range(classes):
        share = _resample(((cut == index).float())[None], shape, prepared.interpolation, cubic=False)[0]
        winner[share > best] = index
        best = torch.maximum(best, share)
    ignored = cut == IGNORE
    if bool(ignored.any()):
        share = _resample(ignored.float()[None], shape, prepared.interpolation, cubic=False)[0]
        winner[(share >= best) & (share > 0)] = IGNORE
    return winner


def normalise(rules: tuple[Normalisation, ...], voxels: torch.Tensor) -> torch.Tensor:
    """Apply each channel's rule to `(channel, *space)`."""
    channels = []
    for rule, channel in zip(rules, voxels, strict=True):
        if rule.kind == "rgb":
            channels.append(channel / 255)
        elif rule.kind == "ct":
            channels.append((channel.clamp(rule.lower, rule.upper) - rule.mean) / max(rule.std, SMALLEST_STD))
        elif rule.nonzero_only and bool((channel != 0).any()):
            inside = channel != 0
            within = channel[inside]
            scaled = (channel - within.mean()) / within.std(correction=0).clamp_min(SMALLEST_STD)
            channels.append(torch.where(inside, scaled, 0.0))
        else:
            channels.append((channel - channel.mean()) / channel.std(correction=0).clamp_min(SMALLEST_STD))
    return torch.stack(channels)


def normalise_colours(rules: Sequence[Normalisation], windows: torch.Tensor) -> torch.Tensor:
    """What members that were trained under these rules see of RGB 0..255 `(batch, 3, *patch)`; float32.

    Raises:
        BadInputError: a rule takes its numbers from the whole picture, which a window of a slide is not.
    """
    if any(rule.kind == "zscore" for rule in rules):
        raise BadInputError(
            "the members were trained on pictures scaled each by its own mean and deviation (zscore), so a window "
            "would change with what lies around it; train on channels named R, G and B to use them on slides"
        )
    channels = []
    for rule, channel in zip(rules, windows.float().unbind(dim=1), strict=True):
        if rule.kind == "rgb":
            channels.append(channel / 255)
        else:
            channels.append((channel.clamp(rule.lower, rule.upper) - rule.mean) / max(rule.std, SMALLEST_STD))
    return torch.stack(channels, dim=1)


def interpolation_between(plan: Plan, grid: Grid, axes: tuple[int, ...]) -> tuple[Interpolation, ...]:
    """`nearest` along an axis that is much coarser than the others, in the file or in the plan."""
    here = np.array([grid.spacing_mm[a] for a in axes])
    kinds: list[Interpolation] = ["linear"] * len(axes)
    for spacing in (here, np.array(plan.spacing_mm)):
        if spacing.max() / spacing.min() > ANISOTROPY:
            kinds[int(spacing.argmax())] = "nearest"
            break
    return tuple(kinds)


def model_shape(plan: Plan, grid: Grid, axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels of a box of `shape` (canonical axes) at the plan's spacing; unchanged within 1 % of it."""
    ratios = [grid.spacing_mm[a] / target for a, target in zip(axes, plan.spacing_mm, strict=True)]
    return tuple(
        n if abs(ratio - 1) < 0.01 else max(1, round(n * ratio))
        for n, ratio in zip(shape, ratios, strict=True)
    )


def resample_image(
    voxels: torch.Tensor, shape: tuple[int, ...], interpolation: tuple[Interpolation, ...]
) -> torch.Tensor:
    """`(channel, *space)` to `(channel, *shape)`: cubic, and nearest across thick slices."""
    if tuple(voxels.shape[1:]) == tuple(shape):
        return voxels
    return _resample(voxels, shape, interpolation, cubic=True)


def _resample(
    voxels: torch.Tensor, shape: tuple[int, ...], interpolation: tuple[Interpolation, ...], cubic: bool
) -> torch.Tensor:
    """One axis after the other, voxel centres aligned as in `torch.nn.functional.interpolate`."""
    for axis, (size, kind) in enumerate(zip(shape, interpolation, strict=True), start=1):
        if voxels.shape[axis] == size:
            continue
        if kind == "nearest":
            step = voxels.shape[axis] / size
            nearest = ((torch.arange(size) + 0.5) * step).long().clamp_max(voxels.shape[axis] - 1)
            voxels = voxels.index_select(axis, nearest)
            continue
        lines = voxels.movedim(axis, -1)
        flat = lines.reshape(1, 1, -1, lines.shape[-1])
        # `antialias` also chooses the cubic kernel that keeps straight lines straight.
        mode = "bicubic" if cubic else "bilinear"
        scaled = F.interpolate(
            flat, size=(flat.shape[2], size), mode=mode, align_corners=False, antialias=cubic
        )
        voxels = scaled.reshape(*lines.shape[:-1], size).movedim(-1, axis)
    return voxels.contiguous()
