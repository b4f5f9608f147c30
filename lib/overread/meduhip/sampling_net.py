"""MedUHIP's Sampling Net (section 3.4): how an interaction moves the mixture."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from overread.meduhip.sampling_space import SMALLEST_WEIGHT, SamplingSpace

# Components start this far apart; the latent unit is that of one component's deviation.
FIRST_SPREAD = 1.5
# How far an interaction can move a component's mean; less than the spread, so that a component keeps its meaning from
# case to case, which the preference memory relies on.
FARTHEST_MOVE = 0.5
SMALLEST_VARIANCE = 1e-3
LARGEST_LOG_VARIANCE = 2.0
# Of one component, where hardly anything is left to the others.
SURE = 0.95


class MeanVarianceNet(nn.Module):
    """Means and variances of the components, given image and prompt; updated through eq. 6.

    A learnt bank of means, one a component and the same for all images, moved by what a small network says about
    this image and these clicks.
    """

    def __init__(self, prompt_width: int, context_width: int, components: int, dimension: int) -> None:
        super().__init__()
        self.components, self.dimension = components, dimension
        self.bank = nn.Parameter(FIRST_SPREAD * torch.randn(components, dimension))
        self.layers = nn.Sequential(
            nn.Linear(prompt_width + context_width, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 2 * components * dimension),
        )

    def forward(self, prompt: torch.Tensor, context: torch.Tensor, weights: torch.Tensor) -> SamplingSpace:
        """The space of a turn.

        Args:
            prompt: `(batch, prompt_width)` of the prompt encoder.
            context: `(batch, context_width)` of the image.
            weights: `(batch, component)`, pi.
        """
        said = self.layers(torch.cat([prompt, context.to(prompt)], dim=1).float())
        moved, spread = said.reshape(len(said), 2, self.components, self.dimension).unbind(dim=1)
        variance = F.softplus(spread) + SMALLEST_VARIANCE
        logs = weights.clamp_min(SMALLEST_WEIGHT).log().log_softmax(dim=1)
        means = self.bank + FARTHEST_MOVE * torch.tanh(moved)
        return SamplingSpace(logs, means, variance.log().clamp_max(LARGEST_LOG_VARIANCE))


class WeightNet(nn.Module):
    """From the posterior of a choice to the next weights; learnt through eq. 7.

    Its last layer starts at zero: untrained, the next weights are exactly Bayes' posterior.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        widths = (64, 128, 64)
        layers: list[nn.Module] = []
        before = components
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers, nn.Linear(before, components))
        self.forget()

    def forget(self) -> None:
        """Begin anew, with Bayes."""
        nn.init.zeros_(self._last.weight)
        nn.init.zeros_(self._last.bias)

    @torch.no_grad()
    def is_deaf(self) -> bool:
        """Whether it is sure of the same component, whichever one the posterior is nearly sure of."""
        components = self._last.out_features
        posteriors = SURE * torch.eye(components) + (1 - SURE) / components
        said, which = self(posteriors.to(self._last.weight)).max(dim=1)
        return components > 1 and bool((which == which[0]).all()) and float(said.min()) > SURE

    @property
    def _last(self) -> nn.Linear:
        return cast(nn.Linear, self.layers[-1])

    def forward(self, posterior: torch.Tensor) -> torch.Tensor:
        """`(batch, component)` to the same, summing to 1."""
        logs = posterior.clamp_min(SMALLEST_WEIGHT).log()
        return (logs + self.layers(logs)).softmax(dim=1)
