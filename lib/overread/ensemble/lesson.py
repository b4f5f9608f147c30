"""What one member learns from, and what it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from overread.domain import BadInputError


@dataclass(frozen=True)
class Pool:
    """Cases that are drawn from evenly.

    Attributes:
        cases: their ids in the patch store.
        share: of the patches that come from here; the shares of a lesson's pools add up to 1.
    """

    cases: tuple[str, ...]
    share: float = 1.0

    def draw(self, generator: torch.Generator) -> str:
        """One of the cases."""
        return self.cases[int(torch.randint(len(self.cases), (1,), generator=generator))]


@dataclass(frozen=True, eq=False)
class Stain:
    """How the same tissue is coloured at one place and at another, see `stain.colours_of`.

    Attributes:
        share: of the patches that are shown in the other's colours.
        here, there: moments `(3, 3)`.
    """

    share: float
    here: torch.Tensor
    there: torch.Tensor


Shared = TypeVar("Shared", Pool, Pool | Stain)


def drawn_by_share(several: Sequence[Shared], generator: torch.Generator) -> Shared | None:
    """One of them, as often as its share says; None as often as the shares leave."""
    drawn = float(torch.rand(1, generator=generator))
    for one in several:
        drawn -= one.share
        if drawn < 0:
            return one
    return None


@dataclass(frozen=True)
class Restaining:
    """Cases that are shown in the colours of others, so that colours do not tell where a patch is from.

    Attributes:
        cases: whose patches.
        like: cases whose colours they are given, as they themselves are coloured, or the stain of a place, each to its
            share of the patches; the rest stays as it is.
    """

    cases: frozenset[str]
    like: tuple[Pool | Stain, ...]


@dataclass(frozen=True)
class Lesson:
    """One member's lesson.

    Attributes:
        pools: where its patches come from.
        start: file of weights to go on from (see `dynunet.member_weights`); None starts from random ones, with losses
            at all resolutions. Weights are stored without the heads of the coarser losses; fresh heads would pull at
            what is already good, so a member that goes on is supervised at full resolution alone.
        rate_factor: of the learning rate.
        restaining: of RGB pictures; none where None.
        apart: all patches of a step are from one pool, so that batch norms never see two of them together.
    """

    pools: tuple[Pool, ...]
    start: Path | None = None
    rate_factor: float = 1.0
    restaining: Restaining | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        if not self.pools or not all(pool.cases for pool in self.pools):
            raise BadInputError("a member has no case to learn from")

    @property
    def cases(self) -> int:
        """How many cases there are to learn from."""
        return sum(len(pool.cases) for pool in self.pools)

    def draw(self, generator: torch.Generator, pool: Pool | None = None) -> str:
        """A case for the next patch, of a pool that is drawn as well where none is given."""
        return (pool or self.draw_pool(generator)).draw(generator)

    def draw_pool(self, generator: torch.Generator) -> Pool:
        """A pool, as often as its share says."""
        if len(self.pools) == 1:
            return self.pools[0]
        return drawn_by_share(self.pools, generator) or self.pools[-1]
