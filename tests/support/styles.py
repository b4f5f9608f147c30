"""A MedUHIP champion without training, whose answers are known by hand: styles that differ in a threshold.

The network is set so that a structure is wherever the image is brighter than a threshold, and each component of the
sampling space has a threshold of its own: one says all shells, one the inner two, one the core alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from overread.domain import Grid
from overread.ensemble.plan import Normalisation, Plan
from overread.ensemble.preparation import prepare
from overread.ensemble.storage import calibration_to_json, read_description, write_description
from overread.imaging.volumes import Volume
from overread.learning.champions import ChampionStore
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import save_model
from overread.uncertainty.calibration import Calibration, DoubtBands

BODY, OUTER, MIDDLE, CORE = 20.0, 60.0, 100.0, 140.0
SHAPE = (40, 34, 12)
BODY_BOX = (slice(2, 38), slice(2, 32), slice(1, 11))
# Each lies in the one before; the outer shell is thick at the end of the last axis.
OUTER_BOX = (slice(8, 30), slice(8, 26), slice(2, 10))
MIDDLE_BOX = (slice(10, 28), slice(10, 24), slice(2, 6))
CORE_BOX = (slice(13, 23), slice(13, 21), slice(3, 5))
# What the components say, in their order; samples are spread evenly, so the first is shown: two of three hold it.
THRESHOLDS = ((OUTER + MIDDLE) / 2, (BODY + OUTER) / 2, (MIDDLE + CORE) / 2)
# Logits between two neighbouring shells.
STEP_LOGIT = 8.0
PER_COMPONENT = 4
DOUBT = DoubtBands("predictive_entropy", 0.6, 0.3, 0.7, 0.02, 0.9, 0.05, 12)


def shells(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A body with three nested boxes, `(*shape)`; a picture is one of its slices."""
    voxels = np.zeros(SHAPE, np.float32)
    for box, value in ((BODY_BOX, BODY), (OUTER_BOX, OUTER), (MIDDLE_BOX, MIDDLE), (CORE_BOX, CORE)):
        voxels[box] = value
    return voxels if len(shape) == 3 else voxels[..., 4]


def threshold_styles(
    axes: int,
    structures: Sequence[Sequence[float]],
    image: np.ndarray | None = None,
    um_per_px: float | None = None,
) -> tuple[MedUHIP, Plan]:
    """The model: for each structure the thresholds of its components.

    Args:
        image: `(channel, *space)`, on which it is set; of the channels it sees the first. `shells` where None.
        um_per_px: of a model for slides, whose image is RGB.
    """
    image = shells((0,) * axes)[None] if image is None else image
    plan = Plan(
        spacing_mm=(1.0,) * axes,
        patch=(16,) * axes,
        batch=1,
        kernels=((3,) * axes,) * 3,
        strides=((1,) * axes, (2,) * axes, (2,) * axes),
        features=(4, 4, 4),
        normalisation=(Normalisation("rgb" if um_per_px else "ct", 0, 200, 0, 1),) * len(image),
        mirror_axes=(),
        classes=len(structures) + 1,
        um_per_px=um_per_px,
    )
    components = len(structures[0])
    configuration = Configuration(
        backend=f"unet{axes}d",
        channels=len(image),
        structures=len(structures),
        width=2,
        components=components,
        dimension=2,
        samples=PER_COMPONENT * components,
        prompt_width=4,
    )
    torch.manual_seed(0)
    model = MedUHIP(configuration).eval()
    with torch.no_grad():
        _show_brightness(model)
        seen = prepare(plan, Volume(image, Grid(image.shape[1:], np.eye(4))))
        cache = model.encode(seen.voxels[None])
        shades = (seen.voxels[0] * 255).round() if um_per_px else seen.voxels[0]
        bright = {
            value: float(cache.features[0, 0][shades == value].mean())
            for value in (BODY, OUTER, MIDDLE, CORE)
        }
        for index, thresholds in enumerate(structures):
            _set_styles(model, index, bright, thresholds)
    return model, plan


def publish_styles(
    app_dir: Path,
    recipe: str,
    *,
    axes: int = 3,
    classes: Sequence[str] = ("background", "organ"),
    structures: Sequence[Sequence[float]] = (THRESHOLDS,),
    bands: bool = False,
    image: np.ndarray | None = None,
    um_per_px: float | None = None,
) -> Path:
    """Make such a model a recipe's champion."""
    model, plan = threshold_styles(axes, structures, image, um_per_px)
    staging = app_dir / "staging" / recipe
    channels = ("R", "G", "B") if um_per_px else ("image",)
    save_model(staging, model, plan, name=recipe, classes=classes, channels=channels, training={})
    if bands:
        calibration = calibration_to_json(Calibration(bands={DOUBT.measure: DOUBT}))
        write_description(staging, read_description(staging) | {"calibration": calibration})
    champion = ChampionStore(app_dir / "model").publish(recipe, staging)
    shutil.rmtree(staging.parent)
    return champion


def _show_brightness(model: MedUHIP) -> None:
    """Feature 0 is the image's brightness, by way of the finest level alone; it rises with it, though not evenly."""
    encoder = model.backend.encoder  # type: ignore[attr-defined]
    for name, parameter in encoder.named_parameters():
        if not name.endswith("adn.N.weight"):
            parameter.zero_()
    for block in (encoder.conv_0, encoder.upcat_1.convs):
        for convolution in (block.conv_0.conv, block.conv_1.conv):
            centre = tuple(n // 2 for n in convolution.weight.shape[2:])
            convolution.weight[(0, 0, *centre)] = 1
    encoder.final_conv.weight[(0, 0, ...)] = 1


def _set_styles(
    model: MedUHIP, structure: int, bright: dict[float, float], thresholds: Sequence[float]
) -> None:
    decoder = model.backend.decoders[structure]  # type: ignore[attr-defined]
    for part in (decoder.refine.out, decoder.plain, decoder.from_features, decoder.middle, decoder.last):
        part.weight.zero_()
        part.bias.zero_()
    values = sorted(bright)
    features = [bright[value] for value in values]
    slope = STEP_LOGIT / min(np.diff(features))
    decoder.plain.weight[(0, 0, ...)] = slope
    # Kept above 0, a sample goes through the layers unchanged.
    high = 1000.0
    decoder.from_features.bias[0] = high
    decoder.from_sample.weight.zero_()
    decoder.from_sample.weight[0, 0] = 1
    decoder.middle.weight[(0, 0, ...)] = 1
    decoder.last.weight[(0, 0, ...)] = 1
    decoder.last.bias[0] = -high
    sampling = model.sampling(structure)
    for parameter in sampling.mean_variance.layers[-1].parameters():
        parameter.zero_()
    sampling.mean_variance.layers[-1].bias[len(sampling.mean_variance.layers[-1].bias) // 2 :] = -20
    sampling.mean_variance.bank.zero_()
    for component, threshold in enumerate(thresholds):
        below = max(feature for value, feature in zip(values, features, strict=True) if value < threshold)
        above = min(feature for value, feature in zip(values, features, strict=True) if value > threshold)
        sampling.mean_variance.bank[component, 0] = -slope * (below + above) / 2
