"""MedUHIP as one network: Segmentation Net (a backend) and Sampling Net (one a structure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from overread.meduhip.backend import Backend, Cache
from overread.meduhip.configuration import SAM, Configuration
from overread.meduhip.mirrors import AS_IT_IS, Mirror, merged, mirrored, mirrored_prompts
from overread.meduhip.prompts import PromptEncoder, Prompts
from overread.meduhip.sampling_net import MeanVarianceNet, WeightNet
from overread.meduhip.sampling_space import SamplingSpace
from overread.meduhip.unet import UNetBackend

if TYPE_CHECKING:
    from overread.meduhip.sam import Fusion, Intensities, SamBackend


class MedUHIP(nn.Module):
    """The whole model.

    Attributes:
        backend: encodes and decodes.
        structures: one `SamplingNet` a foreground class.
        mirrors: the views of an image that what is said of it is the mean of; itself alone unless somebody says more,
            which is not for training.
    """

    mirrors: tuple[Mirror, ...] = AS_IT_IS

    def __init__(self, configuration: Configuration, backend: nn.Module | None = None) -> None:
        super().__init__()
        self.configuration = c = configuration
        self._backend = backend or make_backend(configuration)
        self.structures = nn.ModuleList(
            SamplingNet(c.axes, c.prompt_width, self.backend.context_width, c.components, c.dimension)
            for _ in range(c.structures)
        )

    @property
    def backend(self) -> Backend:
        """The Segmentation Net."""
        return cast(Backend, self._backend)

    def segmentation_parameters(self) -> list[nn.Parameter]:
        """theta_Seg of eq. 3."""
        return list(self._backend.parameters())

    def sampling(self, structure: int = 0) -> SamplingNet:
        """The Sampling Net of one foreground class."""
        return cast(SamplingNet, self.structures[structure])

    def encode(self, image: torch.Tensor) -> Cache:
        """Images `(batch, channel, *space)`, once. With mirrors there are features of every view."""
        if self.mirrors == AS_IT_IS:
            return self.backend.encode(image)
        views = self.backend.encode(mirrored(image, self.mirrors))
        context = views.context.unflatten(0, (len(self.mirrors), len(image))).mean(dim=0)
        return Cache(views.features, context, views.shape)

    def space(
        self,
        cache: Cache,
        prompts: Prompts,
        weights: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        structure: int = 0,
    ) -> SamplingSpace:
        """The sampling space of a turn.

        Args:
            weights: pi, `(batch, component)`; even where nothing is known.
            shift: how far choices have moved the means, `(batch, component, dimension)`; not at all where None.
        """
        space = self.sampling(structure)(cache, prompts, weights)
        if shift is None:
            return space
        return SamplingSpace(space.log_weights, space.means + shift, space.log_variances)

    def decode(
        self, cache: Cache, samples: torch.Tensor, prompts: Prompts, structure: int = 0
    ) -> torch.Tensor:
        """Logits `(batch, sample, *space)`; with mirrors their mean over the views."""
        if self.mirrors == AS_IT_IS:
            return self.backend.decode(cache, samples, prompts, structure)
        count = len(self.mirrors)
        views = Cache(cache.features, cache.context.repeat(count, 1), cache.shape)
        seen = mirrored_prompts(prompts, self.mirrors, cache.shape)
        logits = self.backend.decode(views, samples.repeat(count, 1, 1), seen, structure)
        return merged(logits, self.mirrors)


class SamplingNet(nn.Module):
    """Prompt encoder, Mean-Variance Network and Weight Network of one structure."""

    def __init__(
        self, axes: int, prompt_width: int, context_width: int, components: int, dimension: int
    ) -> None:
        super().__init__()
        self.components = components
        self.prompts = PromptEncoder(axes, prompt_width)
        self.mean_variance = MeanVarianceNet(prompt_width, context_width, components, dimension)
        self.weights = WeightNet(components)

    def moving_parameters(self) -> list[nn.Parameter]:
        """theta_MVP of eq. 6."""
        return [*self.prompts.parameters(), *self.mean_variance.parameters()]

    def forward(self, cache: Cache, prompts: Prompts, weights: torch.Tensor | None = None) -> SamplingSpace:
        """See `MedUHIP.space`."""
        if weights is None:
            even = 1 / self.components
            weights = torch.full((len(cache.context), self.components), even, device=cache.context.device)
        return self.mean_variance(self.prompts(prompts, cache.shape), cache.context, weights)


def make_backend(configuration: Configuration) -> nn.Module:
    """A fresh Segmentation Net."""
    c = configuration
    if c.backend == SAM:
        return _make_sam(c)
    return UNetBackend(c.axes, c.channels, c.structures, c.dimension, c.width)


def _make_sam(c: Configuration) -> SamBackend:
    # Needs the extra `sam`.
    from overread.meduhip.sam import SamBackend

    make = SamBackend.vit_b if c.size == "vit_b" else SamBackend.small
    backend = make(
        c.channels,
        c.structures,
        c.dimension,
        image_size=cast(int, c.image_size),
        fusion=cast("Fusion", c.fusion),
        intensities=cast("Intensities", c.intensities),
    )
    backend.sam.vision_encoder.requires_grad_(not c.freeze_encoder)
    return backend
