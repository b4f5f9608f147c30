"""MedUHIP as one network: Segmentation Net (a backend) and Sampling Net (one a structure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from overread.domain import BadInputError
from overread.meduhip.backend import Backend, Cache
from overread.meduhip.mirrors import AS_IT_IS, Mirror, merged, mirrored, mirrored_prompts
from overread.meduhip.prompts import PromptEncoder, Prompts
from overread.meduhip.sampling_net import MeanVarianceNet, WeightNet
from overread.meduhip.sampling_space import SamplingSpace
from overread.meduhip.unet import UNetBackend


@dataclass(frozen=True)
class Configuration:
    """The sizes of a MedUHIP model.

    Attributes:
        backend: `unet2d`, `unet3d` or `sam`.
        channels: of the image.
        structures: number of foreground classes.
        width: of the U-Net's finest level.
        components: M, Gaussians in the sampling space.
        dimension: D of the sampling space.
        samples: N, masks a turn.
        candidates: K, the most that are offered.
        prompt_width: of the prompt encoder's vector; even.
    """

    backend: str = "unet2d"
    channels: int = 1
    structures: int = 1
    width: int = 24
    components: int = 8
    dimension: int = 16
    samples: int = 16
    candidates: int = 4
    prompt_width: int = 64

    def __post_init__(self) -> None:
        if self.backend not in AXES:
            raise BadInputError(f"no MedUHIP backend is called {self.backend!r}; there are {', '.join(AXES)}")
        for name in ("channels", "structures", "width", "components", "dimension", "samples", "candidates"):
            if getattr(self, name) < 1:
                raise BadInputError(
                    f"{name} of a MedUHIP model is {getattr(self, name)}, expected at least 1"
                )
        # As many sines as cosines.
        if self.prompt_width < 2 or self.prompt_width % 2:
            raise BadInputError(
                f"prompt_width of a MedUHIP model is {self.prompt_width}, expected an even number from 2"
            )

    @property
    def axes(self) -> int:
        """2 for pictures, 3 for volumes."""
        return AXES[self.backend]


AXES = {"unet2d": 2, "unet3d": 3, "sam": 2}


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
    if c.backend == "sam":
        # Needs the extra `sam`.
        from overread.meduhip.sam import SamBackend

        return SamBackend.small(c.channels, c.structures, c.dimension)
    return UNetBackend(c.axes, c.channels, c.structures, c.dimension, c.width)
