"""A training episode (MedUHIP eqs. 3, 6, 7): a case is answered, a simulated clinician reacts, it is answered again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.meduhip.choosers import Chooser, simulated_evidence
from overread.meduhip.interaction import Round, Standing, taught
from overread.meduhip.network import MedUHIP
from overread.meduhip.posterior import mask_posterior
from overread.meduhip.prompts import Prompts
from overread.meduhip.sampling_space import Draws, Sampler, draw, draw_collapsed, draw_nothing
from overread.meduhip.set_loss import coverage_loss, set_loss
from overread.meduhip.unet import halved
from overread.meduhip.vote import sample_dice, soft_vote_loss

# Fused opinions that the samples are to cover, beside those of the single raters.
FUSED = 3
# Errs as clinicians do, but clicks where it means to.
TRAINING_CHOOSER = Chooser(temperature=0.05, lapse=0.1)
NOTHING = "nothing"
SAMPLERS: dict[str, Sampler] = {"mixture": draw, "collapsed": draw_collapsed, NOTHING: draw_nothing}


def sampler_named(name: str) -> Sampler:
    """A way to draw samples. Raises BadInputError for an unknown name."""
    if name not in SAMPLERS:
        raise BadInputError(f"no sampler is called {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


@dataclass(frozen=True)
class EpisodeOptions:
    """How an episode is played.

    Attributes:
        turns: T, answers in an episode; the first comes before any interaction.
        samples: N in training.
        candidates: K.
        set_weight: of the set loss at the first turn.
        coverage_weight: of the coverage loss at the first turn.
        chooser: the simulated clinician.
        pick_share: how often a candidate is picked; otherwise an error is clicked.
        sampler: `mixture`; `collapsed` for the ablation; `nothing` for a network with one opinion.
    """

    turns: int = 3
    samples: int = 4
    candidates: int = 4
    set_weight: float = 0.5
    coverage_weight: float = 3.0
    chooser: Chooser = TRAINING_CHOOSER
    pick_share: float = 0.25
    sampler: str = "mixture"

    def __post_init__(self) -> None:
        sampler_named(self.sampler)
        if self.turns < 1 or self.samples < 1:
            raise BadInputError(f"an episode has turns and samples, got {self.turns} and {self.samples}")


@dataclass(frozen=True, eq=False)
class Losses:
    """Of one episode; scalars.

    Attributes:
        voting: eqs. 3 and 6 with the set loss: what Segmentation Net and Mean-Variance Network descend.
        weighting: eq. 7: what the Weight Network descends.
    """

    voting: torch.Tensor
    weighting: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """Both; they share no parameter, so that one backward pass serves both."""
        return self.voting + self.weighting


def play(
    model: MedUHIP,
    images: torch.Tensor,
    raters: torch.Tensor,
    options: EpisodeOptions,
    rng: np.random.Generator,
    structure: int = 0,
    precision: torch.dtype = torch.float32,
) -> Losses:
    """Play one episode with a batch.

    Equations 3 and 6 are the same loss of the same masks, once for the Segmentation Net and once, with that frozen,
    for prompt encoder and Mean-Variance Network. The parameters are disjoint, so one forward and backward pass gives
    both gradients, at half the cost of two. The image is encoded once an episode, as it is when a clinician works.

    What is done otherwise than in the paper:

    - One step follows an episode, with all gradients at once and one norm to clip them by; the paper steps network
      after network, turn after turn.
    - In eq. 3 samples are held still for the decoder alone: the encoder also learns from what it tells the
      Mean-Variance Network of the image as a whole.
    - Eq. 6 also takes the first turn, before anybody said anything.
    - Where there is one opinion, drawn from no component (`nothing`), eq. 7 is left out: all such samples are counted
      as the first component's, and the Weight Network would learn to choose that whatever is said.
    - At the first turn the truth is the mean of the raters, and set loss and coverage are added by their weights: no
      equation of the paper rewards samples that differ.

    Args:
        images: `(batch, channel, *space)`.
        raters: `(batch, rater, *space)` in {0, 1}; each episode has the fused opinion of some of them in mind.
        precision: what the networks multiply in; losses and posteriors are always float32.
    """
    batch = len(images)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with in_precision(images.device, precision):
        cache = model.encode(images)
    wanted = fused_of_some(raters, rng)
    standing = Standing(Prompts.none(batch, images.ndim - 2, images.device))
    voting = images.new_zeros(())
    weighting = images.new_zeros(())
    for turn in range(options.turns):
        space = model.space(cache, standing.prompts, standing.weights, standing.shift, structure)
        draws = SAMPLERS[options.sampler](space, options.samples, generator)
        with in_precision(images.device, precision):
            logits = model.decode(cache, draws.samples, standing.prompts, structure)
        # Losses and posteriors stay in float32: Dice in bfloat16 is off by as much as samples differ.
        logits = logits.float()
        if turn == 0:
            voting = voting + soft_vote_loss(logits, raters.mean(dim=1))
            if options.set_weight > 0 or options.coverage_weight > 0:
                voting = voting + _diversity(logits, raters, options, rng)
        else:
            voting = voting + soft_vote_loss(logits, wanted)
        if turn + 1 == options.turns:
            break
        seen = Round(space.detached(), Draws(draws.samples.detach(), draws.components), logits.detach())
        picks = rng.random() < options.pick_share
        with torch.no_grad():
            evidence = simulated_evidence(
                options.chooser,
                seen.logits,
                wanted,
                picks,
                options.candidates,
                rng,
                model.configuration.clustering,
            )
        following, _ = taught(model, standing, seen, evidence, structure)
        if options.sampler != NOTHING:
            weighting = weighting + _weights_loss(following, seen, wanted)
        standing = following.detached()
    return Losses(voting / options.turns, weighting)


def in_precision(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Autocast context of a network in training."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def _diversity(
    logits: torch.Tensor, raters: torch.Tensor, options: EpisodeOptions, rng: np.random.Generator
) -> torch.Tensor:
    """Samples as different as raters, and near whatever a clinician may have in mind: each rater, and some fused."""
    small, masks = halved(logits), halved(raters)
    fused = torch.stack([halved(fused_of_some(raters, rng)[:, None])[:, 0] for _ in range(FUSED)], dim=1)
    spread = set_loss(small.sigmoid(), masks)
    covered = coverage_loss(small, torch.cat([masks, fused], dim=1))
    return options.set_weight * spread + options.coverage_weight * covered


def _weights_loss(following: Standing, seen: Round, wanted: torch.Tensor) -> torch.Tensor:
    """Eq. 7: the new weights should be the posterior given what was wanted."""
    assert following.weights is not None
    with torch.no_grad():
        overlap = sample_dice(seen.logits.sigmoid(), wanted)
        target = mask_posterior(seen.space, seen.draws, overlap)
    return F.mse_loss(following.weights, target)


def fused_of_some(raters: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """For each image the majority of a random subset of its raters, ties foreground: `(batch, *space)`."""
    fused = []
    for masks in raters:
        count = int(rng.integers(1, len(masks) + 1))
        chosen = torch.from_numpy(rng.permutation(len(masks))[:count]).to(masks.device)
        fused.append((masks[chosen].mean(dim=0) >= 0.5).to(masks))
    return torch.stack(fused)
