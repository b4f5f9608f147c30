"""Measures: from the members' opinions to one number of doubt a voxel.

Every measure reads `OpinionSums`, so members can be heard one at a time. Adding one is a function
`OpinionSums -> tensor (*space)` with the decorator `measure`; its first docstring line is what users read.
They go class by class, so that only fields of `(*space)` are made on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.special import entr

from overread.domain import BadInputError, OpinionSums, Registry, UncertaintyMap
from overread.domain.opinions import SMALLEST_PROBABILITY

Bound = Callable[[int, int], float]


@dataclass(frozen=True)
class Measure:
    """A named way to say how unsure the members are.

    Attributes:
        name: on the wire, in `/info` and in file names.
        unit: `nat` for entropies, `1` for shares and variances.
        description: one sentence for people.
        upper: the largest value for `(members, classes)`; the smallest is always 0.
        values: the bare quantity, before rounding errors are clamped away.
    """

    name: str
    unit: str
    description: str
    upper: Bound
    values: Callable[[OpinionSums], torch.Tensor]

    @property
    def is_of_disagreement(self) -> bool:
        """Whether it is about how members differ alone, so that one member has no doubt by it."""
        return self.upper(1, 2) == 0

    def __call__(self, sums: OpinionSums) -> UncertaintyMap:
        """The doubt at every voxel, in [0, upper], on the device of the opinions; `sums` is not changed.

        Raises:
            BadInputError: no member has spoken. OverreadError: the opinions held values that are not finite.
        """
        if sums.members == 0:
            raise BadInputError(f"{self.name} needs the opinion of at least one member, got none")
        upper = self.upper(sums.members, sums.classes)
        # Rounding leaves about -1e-8 where members agree; half precision lets classes sum to a little over 1.
        return UncertaintyMap(self.values(sums).clamp(0, upper), self.unit, upper)


MEASURES: Registry[Measure] = Registry("measure")


def measure(unit: str, upper: Bound) -> Callable[[Callable[[OpinionSums], torch.Tensor]], Measure]:
    """Decorator: enter a function into `MEASURES` under its own name.

    Args:
        unit: of the values.
        upper: the largest value for `(members, classes)`.
    """

    def register(values: Callable[[OpinionSums], torch.Tensor]) -> Measure:
        description = (values.__doc__ or "").strip().split("\n")[0]
        return MEASURES.add(values.__name__, Measure(values.__name__, unit, description, upper, values))

    return register


def most_even_votes(members: int, classes: int) -> list[float]:
    """Shares of the classes where `members` one-hot opinions differ as much as they can."""
    each, rest = divmod(members, classes)
    return [(each + (c < rest)) / members for c in range(classes)]


def _log_classes(members: int, classes: int) -> float:
    return math.log(classes)


def _entropy_of_most_even_votes(members: int, classes: int) -> float:
    return -sum(share * math.log(share) for share in most_even_votes(members, classes) if share)


@measure(unit="nat", upper=_log_classes)
def predictive_entropy(sums: OpinionSums) -> torch.Tensor:
    """Entropy of the ensemble's mean opinion: all doubt, whether members disagree or are each unsure.

    Zero where every member is certain of the same class.
    """
    total = torch.zeros_like(sums.entropy)
    for probability in sums.probability:
        total += entr(probability / sums.members)
    return total


@measure(unit="nat", upper=_log_classes)
def expected_entropy(sums: OpinionSums) -> torch.Tensor:
    """Mean of the members' own entropies: the doubt that each member has on its own.

    Zero where every member is certain, even if of different classes.
    """
    return sums.entropy / sums.members


@measure(unit="nat", upper=_entropy_of_most_even_votes)
def mutual_information(sums: OpinionSums) -> torch.Tensor:
    """How far the members disagree, beyond what each of them doubts on its own.

    Houlsby et al. 2011 (arXiv:1112.5745): entropy of the mean opinion minus the mean of the entropies. Zero where
    all members say the same, however unsure each of them is. It is convex in the opinions, hence largest where
    the members are certain of classes spread as evenly as possible: log(min(members, classes)) or a little less.
    """
    return predictive_entropy.values(sums) - expected_entropy.values(sums)


@measure(unit="1", upper=lambda members, classes: 1 - sum(s * s for s in most_even_votes(members, classes)))
def variance(sums: OpinionSums) -> torch.Tensor:
    """Variance of the members' probabilities, summed over classes.

    The variance over the members at hand (divided by their number). Zero where all members say the same.
    """
    spread = sums.squares / sums.members
    for probability in sums.probability:
        spread -= (probability / sums.members).square()
    return spread


@measure(unit="1", upper=lambda members, classes: 1 - max(most_even_votes(members, classes)))
def variation_ratio(sums: OpinionSums) -> torch.Tensor:
    """Share of the members that do not vote for the class with most votes.

    Freeman 1965. Zero where all members put the same class first, however unsure they are of it.
    """
    return 1 - sums.votes.amax(dim=0) / sums.members


def _cross_entropy_bound(members: int, classes: int) -> float:
    # The mean over pairs of members (j, k) of CE(j, k): with itself a member has at most log(classes), with
    # another at most the logarithm of the smallest probability that counts.
    return ((members - 1) * -math.log(SMALLEST_PROBABILITY) + math.log(classes)) / members


@measure(unit="nat", upper=_cross_entropy_bound)
def member_cross_entropy(sums: OpinionSums) -> torch.Tensor:
    """Mean cross-entropy from the ensemble's opinion to its members, the measure of UGA.

    UGA (arXiv:2404.07208) as its released code has it: -sum_c mean_c * mean over members of log p_c. It is the
    predictive entropy plus the mean Kullback-Leibler divergence from the mean opinion to each member, so one
    member that excludes what the others say weighs heavily. Zero where every member is certain of the same class.
    """
    total = torch.zeros_like(sums.entropy)
    for probability, log_probability in zip(sums.probability, sums.log_probability, strict=True):
        total -= probability * log_probability
    # Clamped logarithms and half precision can leave it a hair below the entropy, which it never is.
    return torch.maximum(total / sums.members**2, predictive_entropy.values(sums))
