"""What a clinician's choice says about the sampling space (MedUHIP eqs. 4 and 5), in log space."""

from __future__ import annotations

import torch

from overread.meduhip.sampling_space import Draws, SamplingSpace

# Pseudo-count that keeps components which drew no sample near their prior.
SMOOTHING = 1.0
# Share of the prior that stays whatever was chosen: clinicians misclick.
LAPSE = 0.1
# Samples of a component that its mean needs before it moves, and how far it then goes towards them.
FEWEST_TO_MOVE = 2.0
MOVE = 0.5
# How sharply a sample's likeness to a mask says that the mask came from it.
DICE_TEMPERATURE = 0.1


def lineage_posterior(
    space: SamplingSpace,
    draws: Draws,
    chosen: torch.Tensor,
    *,
    smoothing: float = SMOOTHING,
    lapse: float = LAPSE,
) -> torch.Tensor:
    """P(Z = m | the choice), eq. 5 with the likelihood counted instead of modelled.

    The samples were drawn from the mixture and know their component, so the share of a component's samples that lie in
    the chosen cluster *is* the likelihood of the choice under it. A component without a sample gets the overall share.

    Args:
        chosen: `(batch, sample)` in [0, 1], how much each sample is part of the choice; 0 and 1 for a picked cluster,
            probabilities for soft evidence such as a click.
        smoothing: pseudo-count alpha of the overall share, above 0.
        lapse: share epsilon of the prior in the result.

    Returns:
        `(batch, component)`, summing to 1.
    """
    lineage = draws.one_hot(space.components)
    drawn = lineage.sum(dim=1)
    taken = (lineage * chosen[..., None]).sum(dim=1)
    share = chosen.mean(dim=1, keepdim=True).clamp_min(1e-6)
    log_likelihood = (taken + smoothing * share).log() - (drawn + smoothing).log()
    posterior = (space.log_weights + log_likelihood).softmax(dim=1)
    return (1 - lapse) * posterior + lapse * space.weights


def density_posterior(space: SamplingSpace, datum: torch.Tensor) -> torch.Tensor:
    """Eq. 5 taken literally for a datum of the latent space: Gaussian densities times weights, normalised.

    Args:
        datum: `(batch, dimension)`.

    Returns:
        `(batch, component)`, summing to 1.
    """
    mixture = space.mixture
    log_density = mixture.component_distribution.log_prob(datum[:, None, :])
    return (space.log_weights + log_density).softmax(dim=1)


def resemblance(overlap: torch.Tensor, temperature: float = DICE_TEMPERATURE) -> torch.Tensor:
    """How much each sample is like a mask: softmax over samples of Dice `(batch, sample)`, its largest made 1."""
    weights = (overlap / temperature).softmax(dim=1)
    return weights / weights.amax(dim=1, keepdim=True)


def mask_posterior(space: SamplingSpace, draws: Draws, overlap: torch.Tensor) -> torch.Tensor:
    """P(Z = m | mask): share of each component among the samples, weighted by their likeness to the mask.

    It is the target of eq. 7 (the paper's P(Z | GT)), and what an accepted mask teaches the preference memory.

    Args:
        overlap: Dice of each sample with the mask, `(batch, sample)`.
    """
    weights = (overlap / DICE_TEMPERATURE).softmax(dim=1)
    return (draws.one_hot(space.components) * weights[..., None]).sum(dim=1)


def move_means(
    space: SamplingSpace, draws: Draws, chosen: torch.Tensor, share: float = MOVE
) -> SamplingSpace:
    """Move each component's mean towards the mean of its chosen samples; needs no training.

    Args:
        chosen: as in `lineage_posterior`.
        share: rho, how far.
    """
    lineage = draws.one_hot(space.components) * chosen[..., None]
    taken = lineage.sum(dim=1)
    centre = torch.einsum("bnm,bnd->bmd", lineage, draws.samples) / taken.clamp_min(1e-6)[..., None]
    moves = (taken >= FEWEST_TO_MOVE)[..., None]
    means = torch.where(moves, (1 - share) * space.means + share * centre, space.means)
    return SamplingSpace(space.log_weights, means, space.log_variances)
