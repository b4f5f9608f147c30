"""How a queue hands things out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from overread.domain import BadInputError
from overread.queue.shares import TWICE

# By which the control arm is drawn.
CONTROL_STRATEGY = "foreground_random"


@dataclass(frozen=True)
class QueueSettings:
    """How cases or patches are handed out.

    Attributes:
        strategy: where the client names none.
        control_share: of the servings, in [0, 1], is drawn at random whatever the strategy.
        lease_s: a case belongs to its client for so long.
        skip_rest: so many other cases are served before a skipped one comes back.
        batch: labels that are made before the model changes.
        budget: labels that are planned in all; as many as there are cases if None.
        share: of patches, no slide gets more than so many times an equal share of the questions.
    """

    strategy: str = "most_uncertain"
    control_share: float = 0.2
    lease_s: float = 1800.0
    skip_rest: int = 10
    batch: int = 10
    budget: int | None = None
    share: float = TWICE

    def __post_init__(self) -> None:
        if not 0 <= self.control_share <= 1:
            raise BadInputError(
                f"the control arm's share is a number in [0, 1], got {self.control_share}; 20 % is 0.2"
            )
        if not 1 <= self.share < math.inf:
            raise BadInputError(f"a share is at least 1 times an equal one, got {self.share}")
        if (
            self.lease_s <= 0
            or self.skip_rest < 0
            or min(self.batch, 1 if self.budget is None else self.budget) < 1
        ):
            raise BadInputError(
                "a lease lasts longer than 0 s, a batch and a budget have at least 1 label, and skipped cases "
                f"rest for at least 0 others; got {self.lease_s} s, {self.batch}, {self.budget} and {self.skip_rest}"
            )
