"""What the members say about a case: all at once, or summed as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.special import entr

from overread.domain.errors import BadInputError

# Below this a probability's logarithm is taken as that of this value; UGA's code uses 1e-8 as well.
SMALLEST_PROBABILITY = 1e-8
# bfloat16 keeps 8 bits: a softmax over many classes, rounded, sums to 1 within about 2 %.
SUM_TOLERANCE = 0.03


@dataclass(frozen=True, eq=False)
class Opinions:
    """Class probabilities of every member.

    Attributes:
        probabilities: `(member, class, *space)`, in [0, 1], summing to 1 over classes.
    """

    probabilities: torch.Tensor

    def __post_init__(self) -> None:
        p = self.probabilities
        if p.ndim < 3 or p.shape[0] < 1 or p.shape[1] < 2:
            raise BadInputError(
                f"opinions are (member, class, *space) with at least 1 member and 2 classes, got {tuple(p.shape)}"
            )
        for index, member in enumerate(p):
            check_probabilities(member, f"member {index}")

    @property
    def mean(self) -> torch.Tensor:
        """The ensemble's opinion `(class, *space)`, in float32 at least."""
        return self.probabilities.to(working_dtype(self.probabilities)).mean(dim=0)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.probabilities)

    def sums(self) -> OpinionSums:
        """The same opinions as running sums, which is what the measures read."""
        return OpinionSums.over(self.probabilities)


class OpinionSums:
    """Sums over members from which every measure can be had, whatever the number of members.

    Members are added one at a time, so that M members of a large volume never sit in memory together:
    four fields of `(class, *space)` or less are kept.

    Attributes:
        members: how many were added.
        probability: sum of p, `(class, *space)`.
        log_probability: sum of log p (p clamped to `SMALLEST_PROBABILITY`), `(class, *space)`.
        votes: how many members put this class first, `(class, *space)`; ties go to the lower class.
        entropy: sum of the members' own entropies in nats, `(*space)`.
        squares: sum over members and classes of p squared, `(*space)`.
    """

    def __init__(self) -> None:
        self.members = 0
        self.probability: torch.Tensor = torch.empty(0)
        self.log_probability: torch.Tensor = torch.empty(0)
        self.votes: torch.Tensor = torch.empty(0)
        self.entropy: torch.Tensor = torch.empty(0)
        self.squares: torch.Tensor = torch.empty(0)

    @classmethod
    def over(cls, members: Iterable[torch.Tensor]) -> OpinionSums:
        """Sum an iterable of members' probabilities `(class, *space)`."""
        sums = cls()
        for member in members:
            sums.add(member)
        if sums.members == 0:
            raise BadInputError("an ensemble needs at least one member, got none")
        return sums

    def add(self, probabilities: torch.Tensor) -> None:
        """Hear one more member: `(class, *space)`. The argument is not changed and not kept."""
        p = probabilities.to(working_dtype(probabilities))
        log_p = p.clamp_min(SMALLEST_PROBABILITY).log()
        first = first_choice(p)
        votes = torch.stack([first == index for index in range(len(p))]).to(p.dtype)
        own_entropy = entr(p).sum(dim=0)
        if self.members == 0:
            self.probability, self.log_probability, self.votes = p.clone(), log_p, votes
            self.entropy, self.squares = own_entropy, p.square().sum(dim=0)
        else:
            if p.shape != self.probability.shape:
                raise BadInputError(
                    f"member {self.members} speaks about {tuple(p.shape)}, the others about "
                    f"{tuple(self.probability.shape)}; do all members share classes and grid?"
                )
            self.probability += p
            self.log_probability += log_p
            self.votes += votes
            self.entropy += own_entropy
            self.squares += p.square().sum(dim=0)
        self.members += 1

    @property
    def mean(self) -> torch.Tensor:
        """The ensemble's opinion `(class, *space)`."""
        return self.probability / self.members

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.probability.shape[0]


def working_dtype(tensor: torch.Tensor) -> torch.dtype:
    """float32, or float64 where the input has it: half precision is too coarse for differences of entropies."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def first_choice(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Index of the largest value along an axis, the lower of equal ones, as uint8 (int32 beyond 256 indices).

    What argmax says; over the few classes of a volume, on a CPU ten times as fast.
    """
    parts = values.unbind(dim)
    kind = torch.uint8 if len(parts) <= 256 else torch.int32
    most, first = parts[0], torch.zeros(parts[0].shape, dtype=kind, device=values.device)
    for index, part in enumerate(parts[1:], start=1):
        first.masked_fill_(part > most, index)
        most = torch.maximum(most, part)
    return first


def check_probabilities(probabilities: torch.Tensor, who: str) -> None:
    """Raise BadInputError unless `(class, *space)` holds finite probabilities that sum to 1 over classes."""
    if probabilities.numel() == 0:
        return
    p = probabilities.to(working_dtype(probabilities))
    if not bool(torch.isfinite(p).all()):
        raise BadInputError(f"{who} holds values that are not finite")
    total = p.sum(dim=0)
    low, high = float(total.min()), float(total.max())
    if low < 1 - SUM_TOLERANCE or high > 1 + SUM_TOLERANCE or float(p.min()) < 0:
        raise BadInputError(
            f"{who} sums to {low:.2f}..{high:.2f} over classes, expected 1; did the network return logits?"
        )
