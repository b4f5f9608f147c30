"""Whose doubt it is: total variance of the samples split into style, within and members, which add up to it.

A voxel is foreground or not; by the law of total variance its variance p (1 - p) under all samples of all models is

    style     between the components of a model's sampling space: opinions differ. Ask the person who has one.
    within    inside a component: whoever holds that opinion is undecided too, as the image does not tell.
    members   between models that were trained apart: they know too little. Ask for a label.

One model alone, as every champion in service is, has no `members` doubt: it is 0, whatever the model does not know. The
queue, which asks for labels, then sorts by what is not a matter of style: `expected_entropy` of the model's draws as an
ensemble (`Ensemble.asked_by`), since each draw stands for a component. It tells the reader which part is the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from overread.domain import BadInputError, Registry, UncertaintyMap
from overread.domain.opinions import working_dtype
from overread.meduhip.memory import DRAWS_PER_COMPONENT
from overread.meduhip.prompts import Prompts
from overread.meduhip.reader import OpenImage
from overread.meduhip.sampling_space import draw
from overread.uncertainty.aggregation import AGGREGATIONS

# p (1 - p) at its largest.
MOST_VARIANCE = 0.25

Sample = tuple[int, torch.Tensor]


@dataclass(frozen=True, eq=False)
class DoubtSplit:
    """Parts of the foreground's variance, `(*space)` each, at least 0.

    Attributes:
        style: between components.
        within: inside components.
        members: between models; 0 where there is one.
        models: how many there were.
        probability: of the foreground, mean over all samples.
    """

    style: torch.Tensor
    within: torch.Tensor
    members: torch.Tensor
    models: int
    probability: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """p (1 - p) of the mean probability p, which is the sum of the parts."""
        return self.probability * (1 - self.probability)


@dataclass(frozen=True)
class Part:
    """One part of the doubt.

    Attributes:
        description: one sentence for people.
        asks: what makes it smaller: a `person`'s word, more `label`s, or `nothing` at hand.
        words: the clause that a reader gets where this part is the largest.
        values: the part.
    """

    description: str
    asks: Literal["person", "label", "nothing"]
    words: str
    values: Callable[[DoubtSplit], torch.Tensor]

    def __call__(self, *splits: DoubtSplit) -> UncertaintyMap:
        """The part as a map: of several structures their sum."""
        values = torch.stack([self.values(split) for split in splits]).sum(dim=0)
        return UncertaintyMap(values, "1", MOST_VARIANCE * len(splits))


PARTS: Registry[Part] = Registry("part of doubt")
PARTS.add(
    "style",
    Part(
        "Opinions differ: a matter of style.",
        "person",
        "doubt mostly of style: ask a person",
        lambda split: split.style,
    ),
)
PARTS.add(
    "within",
    Part(
        "Each opinion is undecided: the image does not tell.",
        "nothing",
        "doubt mostly within each style: the image does not tell",
        lambda split: split.within,
    ),
)
PARTS.add(
    "members",
    Part(
        "Models trained apart differ: more labels help.",
        "label",
        "doubt mostly between models: ask for a label",
        lambda split: split.members,
    ),
)
# What one network can tell apart; its `members` doubt is 0.
OF_ONE_NETWORK = ("style", "within")
ONE_NETWORK = "`members` is 0 where there is one network: what it does not know it cannot tell."


def split_doubt(models: Sequence[Iterable[Sample]]) -> DoubtSplit:
    """Split the doubt of one structure.

    Samples are taken as they come and forgotten: memory holds one field a component.

    Args:
        models: of each model its samples: the component, and the probability of the foreground `(*space)` in [0, 1].
            They were drawn by weight, so that their shares are the components' weights; models count alike.

    Raises:
        BadInputError: no model, or one without a sample.
    """
    if not models:
        raise BadInputError("there is no model whose doubt could be split")
    means, styles, withins = [], [], []
    for index, samples in enumerate(models):
        sums: dict[int, torch.Tensor] = {}
        counts: dict[int, int] = {}
        for component, probability in samples:
            p = probability.to(working_dtype(probability))
            sums[component] = sums[component] + p if component in sums else p
            counts[component] = counts.get(component, 0) + 1
        if not sums:
            raise BadInputError(f"model {index} has no sample")
        total = sum(counts.values())
        mean = torch.stack(list(sums.values())).sum(dim=0) / total
        style, within = torch.zeros_like(mean), torch.zeros_like(mean)
        for component, summed in sums.items():
            own, share = summed / counts[component], counts[component] / total
            style += share * (own - mean).square()
            # p (1 - p) of the component's mean: its samples' variance and what each sample leaves open, in one.
            within += share * own * (1 - own)
        means.append(mean)
        styles.append(style)
        withins.append(within)
    probability = torch.stack(means).mean(dim=0)
    return DoubtSplit(
        style=torch.stack(styles).mean(dim=0),
        within=torch.stack(withins).mean(dim=0),
        members=torch.stack([(mean - probability).square() for mean in means]).mean(dim=0),
        models=len(models),
        probability=probability,
    )


def split_draws(logits: torch.Tensor, lineage: Sequence[Sequence[int]]) -> torch.Tensor:
    """The parts that one network can tell apart, of its draws, `(style and within, *space)`; the structures' sum.

    Where there is one draw a component, as there is of a usual model's members, what further draws of it would differ
    by counts as style; `splits_of` has several and counts it as within.

    Args:
        logits: `(draw, class, *space)`, divided by the temperature; the first class is the background.
        lineage: of each structure the component that each draw came from; those of draws that are not there do not
            count.
    """

    def samples(structure: int, components: Sequence[int]) -> Iterator[Sample]:
        for component, of_draw in zip(components, logits, strict=False):
            yield component, (of_draw[structure] - of_draw[0]).sigmoid()

    splits = [split_doubt([samples(n, components)]) for n, components in enumerate(lineage, start=1)]
    parts = [[PARTS[name].values(split) for split in splits] for name in OF_ONE_NETWORK]
    return torch.stack([torch.stack(of_structure).sum(dim=0) for of_structure in parts])


@torch.no_grad()
def samples_of(
    image: OpenImage, structure: int = 0, seed: int = 0, temperature: float = 1.0
) -> Iterator[Sample]:
    """A model's samples before anybody said anything, in the model's voxels, for `split_doubt`."""
    c = image.model.configuration
    prompts = Prompts.none(1, c.axes, image.cache.context.device)
    space = image.model.space(image.cache, prompts, structure=structure)
    draws = draw(space, DRAWS_PER_COMPONENT * c.components, torch.Generator().manual_seed(seed))
    components = draws.components[0].tolist()
    for index, component in enumerate(components):
        logits = image.decode(draws.samples[:, index : index + 1], prompts, structure)
        yield component, (logits[0, 0].float() / temperature).sigmoid()


def splits_of(
    image: OpenImage,
    temperature: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> list[DoubtSplit]:
    """The doubt of one model at one image, a split a structure, in the model's voxels.

    Args:
        temperature: what logits are divided by (see `Calibration`).
        progress: told the share done, in (0, 1]; may raise to cancel.
    """
    c = image.model.configuration
    total = DRAWS_PER_COMPONENT * c.components * c.structures
    done = 0

    def told(samples: Iterator[Sample]) -> Iterator[Sample]:
        nonlocal done
        for sample in samples:
            done += 1
            if progress is not None:
                progress(done / total)
            yield sample

    return [
        split_doubt([told(samples_of(image, structure, temperature=temperature))])
        for structure in range(c.structures)
    ]


def case_scores(splits: Sequence[DoubtSplit]) -> dict[str, float]:
    """Mean of each part in and near what is predicted, by its name; the structures' sum."""
    near = AGGREGATIONS["foreground_mean"]
    predicted = [(split.probability > 0.5).to(torch.uint8) for split in splits]
    return {
        name: sum(near(PARTS[name](split), mask) for split, mask in zip(splits, predicted, strict=True))
        for name in PARTS
    }


def largest_part(scores: Mapping[str, float]) -> Part | None:
    """The largest of the parts; None where none is known, or there is no doubt at all."""
    name = max(scores, key=lambda part: scores[part], default="")
    return PARTS[name] if name and scores[name] > 0 else None


def doubt_facts(scores: Mapping[str, float]) -> dict[str, Any] | None:
    """The parts for a program, with what the largest asks for; None where they are not known."""
    if not scores:
        return None
    largest = largest_part(scores)
    return {
        "parts": {name: float(value) for name, value in scores.items()},
        "asks": largest.asks if largest else "nothing",
        "words": largest.words if largest else "no doubt",
        "meaning": {name: PARTS[name].description for name in scores} | {"networks": ONE_NETWORK},
    }
