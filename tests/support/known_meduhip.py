"""A MedUHIP model made by hand: component m draws a disc of a known radius round the middle of any picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from overread.domain import Grid
from overread.ensemble.plan import Normalisation, Plan
from overread.imaging.volumes import Volume
from overread.meduhip.backend import Cache
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Prompts
from overread.meduhip.reader import Reader
from overread.uncertainty.calibration import Calibration

# Of the discs that the components draw, in voxels.
RADII = (4.0, 6.0, 8.0, 10.0)
SHAPE = (32, 32)
# Standard deviation of a component, in voxels of radius.
SPREAD = 0.3


class Discs(nn.Module):
    """A sample's first number is the radius; the second moves the disc along x."""

    axes, context_width = 2, 1

    def encode(self, image: torch.Tensor) -> Cache:
        """Nothing of the image matters."""
        batch = len(image)
        return Cache(torch.zeros(batch, 1, 1, 1), torch.zeros(batch, 1), tuple(image.shape[2:]))

    def decode(
        self, cache: Cache, samples: torch.Tensor, prompts: Prompts, structure: int = 0
    ) -> torch.Tensor:
        """Logits: how far inside the disc a voxel lies."""
        i, j = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in cache.shape)
        x = i[None, None, :, None] - samples[..., 1][..., None, None]
        return samples[..., 0][..., None, None] - (x**2 + j[None, None, None, :] ** 2).sqrt()


def known_model(radii: Sequence[float] = RADII, structures: int = 1) -> MedUHIP:
    """The model; component m draws a disc of `radii[m]` in the middle."""
    configuration = Configuration(
        components=len(radii), dimension=2, samples=8, prompt_width=4, structures=structures
    )
    model = MedUHIP(configuration, Discs())
    with torch.no_grad():
        for structure in range(structures):
            net = model.sampling(structure).mean_variance
            net.bank.copy_(torch.tensor([[radius, 0.0] for radius in radii]))
            last = net.layers[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            # The first half moves the means, the second is softplus' argument for the variance.
            last.bias.zero_()
            last.bias[len(last.bias) // 2 :] = float(np.log(np.expm1(SPREAD**2)))
    return model.eval()


def known_reader(
    radii: Sequence[float] = RADII, identity: str = "a" * 64, classes: Sequence[str] = ("background", "disc")
) -> Reader:
    """The model as a champion that was loaded."""
    plan = Plan(
        spacing_mm=(1.0, 1.0),
        patch=SHAPE,
        batch=1,
        kernels=((3, 3),) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        features=(8, 8, 8),
        normalisation=(Normalisation("zscore"),),
        mirror_axes=(),
        classes=len(classes),
    )
    model = known_model(radii, len(classes) - 1)
    return Reader("disc", tuple(classes), ("image",), model, plan, identity, Calibration(), Path())


def picture(shape: Sequence[int] = SHAPE) -> Volume:
    """Noise without a voxel of 0."""
    voxels = np.random.default_rng(0).uniform(1, 2, (1, *shape)).astype(np.float32)
    return Volume(voxels, Grid(tuple(shape), np.eye(4)))


def disc_of(radius: float, x: float = 0.0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """The mask that somebody accepts: a disc of that radius, moved along x."""
    i, j = np.indices(shape) - (np.array(shape).reshape(2, 1, 1) - 1) / 2
    return np.hypot(i - x, j) < radius
