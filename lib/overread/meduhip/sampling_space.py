"""The sampling space of MedUHIP (section 3.4): a Gaussian mixture over opinions, and draws with their lineage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from overread.domain import BadInputError

# Below this a component's weight is taken for this value, so that a log stays finite.
SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True, eq=False)
class SamplingSpace:
    """A mixture of M Gaussians with diagonal covariance in D dimensions, one for each of B images.

    Attributes:
        log_weights: `(batch, component)`, log pi; normalised.
        means: `(batch, component, dimension)`.
        log_variances: the same shape.
    """

    log_weights: torch.Tensor
    means: torch.Tensor
    log_variances: torch.Tensor

    def __post_init__(self) -> None:
        if self.means.ndim != 3 or self.means.shape != self.log_variances.shape:
            raise BadInputError(
                f"means {tuple(self.means.shape)} and log variances {tuple(self.log_variances.shape)} of a sampling "
                "space are both (batch, component, dimension)"
            )
        if self.log_weights.shape != self.means.shape[:2]:
            raise BadInputError(
                f"log weights {tuple(self.log_weights.shape)} of a sampling space are (batch, component), "
                f"expected {tuple(self.means.shape[:2])}"
            )

    @property
    def components(self) -> int:
        """M."""
        return self.means.shape[1]

    @property
    def weights(self) -> torch.Tensor:
        """pi, `(batch, component)`, summing to 1."""
        return self.log_weights.softmax(dim=1)

    @cached_property
    def mixture(self) -> MixtureSameFamily:
        """The same as a distribution of torch, for densities."""
        components = Independent(Normal(self.means, (0.5 * self.log_variances).exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.log_weights), components)

    def detached(self) -> SamplingSpace:
        """The same numbers without their history."""
        return SamplingSpace(self.log_weights.detach(), self.means.detach(), self.log_variances.detach())

    def with_weights(self, weights: torch.Tensor) -> SamplingSpace:
        """The same components, weighted anew: `(batch, component)`, at least 0; they are normalised."""
        logs = weights.clamp_min(SMALLEST_WEIGHT).log()
        return replace(self, log_weights=logs.log_softmax(dim=1))

    def explored(self) -> SamplingSpace:
        """Wider and more even, for a clinician to whom none of the candidates was right: pi^0.5, sigma * 1.5."""
        return SamplingSpace(
            (0.5 * self.log_weights).log_softmax(dim=1),
            self.means,
            self.log_variances + 2 * EXPLORE_LOG_SIGMA,
        )


EXPLORE_LOG_SIGMA = 0.4054651081081644  # log 1.5


@dataclass(frozen=True, eq=False)
class Draws:
    """Samples of a sampling space with their lineage.

    Attributes:
        samples: `(batch, sample, dimension)`; gradients flow to the means and variances they came from.
        components: `(batch, sample)`, the component that each came from.
    """

    samples: torch.Tensor
    components: torch.Tensor

    def one_hot(self, components: int) -> torch.Tensor:
        """`(batch, sample, component)`: 1 where the sample came from the component."""
        return torch.nn.functional.one_hot(self.components, components).to(self.samples.dtype)


# From a space, the number of samples and a source of randomness to samples.
Sampler = Callable[[SamplingSpace, int, torch.Generator | None], Draws]


def draw(space: SamplingSpace, count: int, generator: torch.Generator | None = None) -> Draws:
    """Ancestral samples: components by systematic resampling of pi, then a Gaussian sample of each.

    Systematic resampling draws component m either floor(N pi_m) or ceil(N pi_m) times, so that few samples represent
    the weights well. No gradient reaches the weights; they are learnt through eq. 7.

    Args:
        count: N.
        generator: source of randomness; of the CPU, whatever the device of the space.
    """
    batch, _, dimension = space.means.shape
    offset = torch.rand(batch, 1, generator=generator)
    places = (torch.arange(count) + offset) / count
    upto = space.weights.detach().cpu().cumsum(dim=1)
    components = torch.searchsorted(upto, places).clamp_max(space.components - 1).to(space.means.device)
    noise = torch.randn(batch, count, dimension, generator=generator).to(space.means.device)
    index = components[..., None].expand(-1, -1, dimension)
    means, log_variances = space.means.gather(1, index), space.log_variances.gather(1, index)
    return Draws(means + (0.5 * log_variances).exp() * noise, components)


def draw_collapsed(space: SamplingSpace, count: int, generator: torch.Generator | None = None) -> Draws:
    """Samples as the released code of SPA draws them: means and deviations averaged by weight, then one Gaussian.

    Kept for the ablation that shows what it costs. That is no mixture, so that the lineage is arbitrary: components are
    given out by weight and say nothing about the sample.
    """
    lineage = draw(space, count, generator).components
    weights = space.weights[..., None]
    mean = (weights * space.means).sum(dim=1, keepdim=True)
    deviation = (weights * (0.5 * space.log_variances).exp()).sum(dim=1, keepdim=True)
    noise = torch.randn(mean.shape[0], count, mean.shape[2], generator=generator).to(mean.device)
    return Draws(mean + deviation * noise, lineage)


def draw_nothing(space: SamplingSpace, count: int, generator: torch.Generator | None = None) -> Draws:
    """Samples that say nothing: zeros. For networks that are to have one opinion, and for learning masks first."""
    batch, _, dimension = space.means.shape
    nowhere = torch.zeros(batch, count, dimension, device=space.means.device)
    return Draws(nowhere, torch.zeros(batch, count, dtype=torch.long, device=space.means.device))
