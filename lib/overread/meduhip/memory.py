"""What a clinician usually wants, learnt from the masks that were accepted, and where the next case starts from it.

A component of the sampling space keeps its meaning from case to case (see `sampling_net`), so that what is learnt at
one image holds at the next. Clicks teach nothing here: only the mask that was accepted in the end does, whatever was
clicked on the way and taken back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from overread.domain import BadInputError
from overread.meduhip.network import MedUHIP
from overread.meduhip.posterior import DICE_TEMPERATURE, mask_posterior
from overread.meduhip.prompts import Prompts
from overread.meduhip.sampling_space import draw
from overread.meduhip.session import Image, StructureState
from overread.meduhip.vote import SMOOTH_VOXEL, sample_dice

# Cases that a newcomer needs to weigh as much as everybody before.
KAPPA = 5.0
# Share of the shift that stays when a case is added.
DECAY = 0.9
# Log odds at which somebody may draw the border, where 0 is an even vote (see `StructureState.level`).
LEVELS_TRIED = tuple(n / 2 for n in range(-8, 9))
# Samples that an accepted mask is compared with; evenly weighted components draw this many each.
DRAWS_PER_COMPONENT = 4
DRAW_SEED = 20240807


@dataclass(frozen=True)
class Impression:
    """What one accepted mask says about who accepted it.

    Attributes:
        components: how much of it each component explains, summing to 1.
        residual: where it lies from the means of those components, one a dimension.
        size: its voxels divided by those of the model's masks before anything was said.
        level: log odds at which the border of those components' masks was drawn, below 0 outside their own.
    """

    components: tuple[float, ...]
    residual: tuple[float, ...]
    size: float
    level: float = 0.0


@dataclass(frozen=True)
class Preference:
    """What is known of somebody about one structure.

    Attributes:
        counts: Dirichlet counts, one a component.
        shift: what is usually missing from the components' means, one a dimension.
        cases: accepted masks that it was learnt from.
        size: geometric mean of the masks' sizes relative to the model's own; for people to read.
        level: log odds at which the border is usually drawn.
    """

    counts: tuple[float, ...]
    shift: tuple[float, ...]
    cases: int = 0
    size: float = 1.0
    level: float = 0.0

    def __post_init__(self) -> None:
        values = (*self.counts, *self.shift, self.size, self.level)
        if not self.counts or not all(map(math.isfinite, values)) or min(self.counts) < 0 or self.size <= 0:
            raise BadInputError(
                "a preference has finite counts of at least 0, a finite shift and level and a size above 0, got "
                f"counts {self.counts}, shift {self.shift}, level {self.level} and size {self.size}"
            )
        if self.cases < 0:
            raise BadInputError(f"a preference was learnt from {self.cases} cases, expected 0 or more")

    @classmethod
    def none(cls, model: MedUHIP) -> Preference:
        """Before anything was accepted."""
        c = model.configuration
        return cls((0.0,) * c.components, (0.0,) * c.dimension)

    def after(self, seen: Impression) -> Preference:
        """The preference with one more accepted mask.

        Shift and level are means that forget, corrected for their short past: the first case is taken as it is.
        """
        cases = self.cases + 1
        weight = (1 - DECAY) / (1 - DECAY**cases)
        return Preference(
            counts=tuple(a + b for a, b in zip(self.counts, seen.components, strict=True)),
            shift=tuple(a + weight * (b - a) for a, b in zip(self.shift, seen.residual, strict=True)),
            cases=cases,
            size=math.exp((self.cases * math.log(self.size) + math.log(seen.size)) / cases),
            level=self.level + weight * (seen.level - self.level),
        )


def shrunk_weights(
    counts: Sequence[float], everybody: Sequence[float] | None = None, kappa: float = KAPPA
) -> tuple[float, ...]:
    """pi_0 = (a + kappa pi) / (sum a + kappa), for the counts a of somebody and the weights pi of everybody.

    Args:
        everybody: summing to 1; even where None.
    """
    base = everybody or (1 / len(counts),) * len(counts)
    total = sum(counts) + kappa
    return tuple((count + kappa * share) / total for count, share in zip(counts, base, strict=True))


def mean_weights(people: Sequence[Preference]) -> tuple[float, ...]:
    """Where people begin on average, each counting alike, however many cases they accepted.

    Who accepted few says little: each is shrunk towards even weights first.
    """
    each = [shrunk_weights(preference.counts) for preference in people]
    return tuple(sum(of_component) / len(each) for of_component in zip(*each, strict=True))


def prior_state(
    preference: Preference,
    model: MedUHIP,
    kappa: float = KAPPA,
    everybody: Sequence[float] | None = None,
) -> StructureState:
    """Where the next case starts for one structure; untouched where nothing is known.

    With the weights of `shrunk_weights`, and means and level moved by n / (n + kappa) of what was learnt. Others'
    shifts and levels are not taken over: they are how a hand draws, not which opinion is held.

    Args:
        everybody: the weights that a newcomer begins with; even where None.

    Raises:
        BadInputError: the preference was learnt with a model of other sizes.
    """
    c = model.configuration
    if (len(preference.counts), len(preference.shift)) != (c.components, c.dimension):
        raise BadInputError(
            f"a preference over {len(preference.counts)} components in {len(preference.shift)} dimensions does not fit "
            f"a model with {c.components} in {c.dimension}; replay it"
        )
    if preference.cases == 0:
        return StructureState(tuple(everybody)) if everybody else StructureState()
    weights = shrunk_weights(preference.counts, everybody, kappa)
    share = preference.cases / (preference.cases + kappa)
    shift = tuple(share * value for value in preference.shift) * c.components
    return StructureState(weights, shift, level=share * preference.level)


@torch.no_grad()
def impression(model: MedUHIP, image: Image, mask: torch.Tensor, structure: int = 0) -> Impression:
    """What an accepted mask says, by its likeness to samples that nobody has influenced.

    The residual is the mean of z - mu of the component it came from, over samples weighted by their likeness.
    Not z - E z under everybody's weights: most of that is the way to the preferred component, which the counts say
    already, so that the component would be weighted up and moved off its place as well. The level is that of the same
    samples, weighted likewise, for the same reason.

    Args:
        image: encoded by the model.
        mask: boolean `(*space)` in the model's voxels, not empty.

    Raises:
        BadInputError: the mask is empty or of another shape.
    """
    cache, c = image.cache, model.configuration
    if tuple(mask.shape) != tuple(cache.shape):
        raise BadInputError(f"the mask has {tuple(mask.shape)} voxels, its image {tuple(cache.shape)}")
    if not bool(mask.any()):
        raise BadInputError("an empty mask says nothing about how somebody draws")
    mask = mask.to(cache.context.device)
    prompts = Prompts.none(1, c.axes, mask.device)
    space = model.space(cache, prompts, structure=structure)
    draws = draw(space, DRAWS_PER_COMPONENT * c.components, torch.Generator().manual_seed(DRAW_SEED))
    overlaps, voxels, by_level = [], [], []
    # As many at a time as a turn draws, so that no more memory is needed than for a turn.
    for samples in draws.samples.split(c.samples, dim=1):
        logits = image.decode(samples, prompts, structure)
        by_level.append(overlap_by_level(logits[0], mask))
        masks = (logits > 0).float()
        overlaps.append(sample_dice(masks, mask[None]))
        voxels.append(masks.flatten(2).sum(dim=2))
    overlap = torch.cat(overlaps, dim=1)
    means = space.means.gather(1, draws.components[..., None].expand_as(draws.samples))
    likeness = (overlap / DICE_TEMPERATURE).softmax(dim=1)[..., None]
    best = int((likeness[0] * torch.cat(by_level)).sum(dim=0).argmax())
    usual = float(torch.cat(voxels, dim=1).mean())
    return Impression(
        components=tuple(mask_posterior(space, draws, overlap)[0].tolist()),
        residual=tuple((likeness * (draws.samples - means)).sum(dim=1)[0].tolist()),
        size=(float(mask.sum()) + SMOOTH_VOXEL) / (usual + SMOOTH_VOXEL),
        level=LEVELS_TRIED[best],
    )


def overlap_by_level(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Dice of every sample `(sample, *space)` with a boolean mask, drawn at each of `LEVELS_TRIED`: `(sample, level)`.

    Voxels are counted between two levels, so that they are gone through once and not once a level.
    """
    count, levels = len(logits), len(LEVELS_TRIED)
    between = torch.bucketize(logits.flatten(1), torch.tensor(LEVELS_TRIED, device=logits.device).to(logits))
    between += (levels + 1) * torch.arange(count, device=logits.device)[:, None]
    size = count * (levels + 1)

    def above(bins: torch.Tensor) -> torch.Tensor:
        counts = bins.flatten().bincount(minlength=size).reshape(count, levels + 1)
        return counts.flip(1).cumsum(1).flip(1)[:, 1:].float()

    shared, drawn = above(between[:, mask.flatten()]), above(between)
    return (2 * shared + SMOOTH_VOXEL) / (drawn + mask.sum() + SMOOTH_VOXEL)


def learned(
    preference: Preference, model: MedUHIP, image: Image, mask: torch.Tensor, structure: int = 0
) -> Preference:
    """The preference after one more accepted mask. Raises as `impression`."""
    return preference.after(impression(model, image, mask, structure))


def replayed(
    model: MedUHIP, examples: Iterable[tuple[Image, torch.Tensor]], structure: int = 0
) -> Preference:
    """The preference in a new model's terms, from images it has encoded and the masks accepted there, oldest first.

    Components of a retrained model mean other things; what somebody accepted stays what it was.
    """
    preference = Preference.none(model)
    for image, mask in examples:
        preference = learned(preference, model, image, mask, structure)
    return preference
