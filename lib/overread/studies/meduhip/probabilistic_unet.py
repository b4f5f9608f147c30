"""The Probabilistic U-Net (Kohl et al. 2018, arXiv:1806.05034) on the study's backbone, as a baseline."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from overread.meduhip.backend import Cache
from overread.meduhip.mirrors import AS_IT_IS, Mirror, merged, mirrored
from overread.meduhip.prompts import Prompts
from overread.meduhip.unet import UNetBackend, halved
from overread.meduhip.vote import soft_vote_loss

# Length of the latent vector, and weight of the divergence: the paper's for LIDC.
DIMENSION = 6
BETA = 1.0
# The divergence is summed over dimensions, the reconstruction averaged over voxels here and summed in the paper.
VOXELS_OF_PAPER = 180 * 180


class ProbabilisticUNet(nn.Module):
    """One Gaussian before the label is seen (prior), one after it (posterior); samples of the prior are masks.

    The paper's networks for the Gaussians are encoders like the U-Net's own. Here the prior is read off the U-Net's
    features, the posterior off image and label by a small network. The sample joins the last features through three
    1x1 convolutions, as there.

    Attributes:
        mirrors: views of an image whose mean is taken, as of all arms of the study; not for training.
    """

    mirrors: tuple[Mirror, ...] = AS_IT_IS

    def __init__(self, axes: int, channels: int, width: int) -> None:
        super().__init__()
        self.backend = UNetBackend(axes, channels, 1, DIMENSION, width)
        self.prior = _Gaussian(axes, width, width)
        self.posterior = _Gaussian(axes, channels + 1, width)

    def encode(self, image: torch.Tensor) -> Cache:
        """Images `(batch, channel, *space)`, once; all views of them."""
        return self.backend.encode(mirrored(image, self.mirrors))

    @torch.no_grad()
    def draw(self, cache: Cache, count: int, generator: torch.Generator) -> torch.Tensor:
        """Logits `(batch, sample, *space)` of samples of the prior."""
        prior, views = self.prior(cache.features), len(self.mirrors)
        mean, deviation = (part.unflatten(0, (views, -1)).mean(dim=0) for part in (prior.mean, prior.stddev))
        noise = torch.randn(len(mean), count, DIMENSION, generator=generator)
        samples = mean[:, None] + deviation[:, None] * noise
        nothing = Prompts.none(1, len(cache.shape)).expanded(len(cache.context))
        logits = self.backend.decode(cache, samples.repeat(views, 1, 1), nothing)
        return merged(logits, self.mirrors)

    def loss(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Negative evidence lower bound (eq. 4 there) a voxel, with Dice added as everywhere in this study.

        Args:
            label: one rater's mask, `(batch, *space)`.
        """
        cache = self.encode(image)
        posterior = self.posterior(torch.cat([image, label[:, None]], dim=1))
        sample = posterior.rsample()[:, None]
        nothing = Prompts.none(1, label.ndim - 1, image.device).expanded(len(label))
        logits = self.backend.decode(cache, sample, nothing).float()
        divergence = kl_divergence(posterior, self.prior(cache.features)).mean()
        return soft_vote_loss(logits, label) + BETA * divergence / VOXELS_OF_PAPER


class _Gaussian(nn.Module):
    """An image to a Gaussian with diagonal covariance."""

    def __init__(self, axes: int, channels: int, width: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        before = channels
        for _ in range(4):
            layers += [convolution(before, width, 3, padding=1), nn.ReLU(), _Half()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(width, 2 * DIMENSION)

    def forward(self, values: torch.Tensor) -> Independent:
        pooled = self.layers(values).flatten(2).mean(dim=2)
        mean, log_deviation = self.out(pooled).float().chunk(2, dim=1)
        return Independent(Normal(mean, log_deviation.clamp(-5, 3).exp()), 1)


class _Half(nn.Module):
    """Half the resolution, however few voxels a volume has along an axis."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return halved(values)
