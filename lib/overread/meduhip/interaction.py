"""One interaction, as the model takes it: evidence about the samples, a click, and the mask to go on from.

Picking a candidate and clicking freely are the same thing to the model. A pick says of every sample whether it belongs
to the choice; a click says it by how likely each sample finds the side that was clicked. Both give a place with a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from overread.meduhip.network import MedUHIP
from overread.meduhip.posterior import lineage_posterior, move_means
from overread.meduhip.prompts import Prompts
from overread.meduhip.sampling_space import Draws, SamplingSpace

# Evidence is never taken to be more certain than this: the clicked voxel may lie on an edge.
LEAST_EVIDENCE = 0.02


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a batch of clinicians did.

    Attributes:
        belief: `(batch, sample)` in [0, 1], how much each sample agrees.
        places: `(batch, axis)`, the voxel that was clicked, or that tells the picked candidate best.
        sides: `(batch,)`, 1 foreground, 0 background.
    """

    belief: torch.Tensor
    places: torch.Tensor
    sides: torch.Tensor


@dataclass(frozen=True, eq=False)
class Round:
    """One turn's samples: the space they came from, the draws, and their masks.

    Attributes:
        space, draws: the mixture and its samples.
        logits: `(batch, sample, *space)`.
    """

    space: SamplingSpace
    draws: Draws
    logits: torch.Tensor


@dataclass(frozen=True, eq=False)
class Standing:
    """What interactions have taught so far, for a batch; replaced at each turn.

    Attributes:
        prompts: clicks, and the mask that was chosen last.
        weights: pi, `(batch, component)`; None before the first interaction, where they are even.
        shift: how far the means were moved, `(batch, component, dimension)`; None as long as they were not.
    """

    prompts: Prompts
    weights: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def detached(self) -> Standing:
        """The same, of which nothing more is learnt."""
        weights, shift = (None if said is None else said.detach() for said in (self.weights, self.shift))
        return Standing(self.prompts, weights, shift)


def click_evidence(logits: torch.Tensor, places: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """How likely each sample `(batch, sample, *space)` finds the clicked side: `(batch, sample)`."""
    index = places.round().long()
    batch = torch.arange(len(logits), device=logits.device)
    at = logits[(batch, slice(None), *index.unbind(dim=1))]
    sign = torch.where(sides == 1, 1.0, -1.0)[:, None].to(logits)
    return torch.sigmoid(at * sign).clamp_min(LEAST_EVIDENCE)


def taught(
    model: MedUHIP, standing: Standing, turn: Round, evidence: Evidence, structure: int = 0
) -> tuple[Standing, torch.Tensor]:
    """What is known after an interaction, and the posterior that it rests on.

    The posterior (eq. 5) goes through the Weight Network; means move towards the samples that agree; the next mask
    starts from the agreeing samples' mean logits.
    """
    posterior = lineage_posterior(turn.space, turn.draws, evidence.belief)
    moved = move_means(turn.space, turn.draws, evidence.belief)
    shift = moved.means - turn.space.means
    if standing.shift is not None:
        shift = shift + standing.shift
    share = evidence.belief / evidence.belief.sum(dim=1, keepdim=True).clamp_min(1e-6)
    agreed = (turn.logits * share.reshape(*share.shape, *[1] * (turn.logits.ndim - 2))).sum(dim=1)
    prompts = standing.prompts.with_click(evidence.places, evidence.sides).with_dense(agreed)
    weights = model.sampling(structure).weights(posterior)
    return Standing(prompts, weights, shift), posterior
