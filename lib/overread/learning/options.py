"""How a challenger is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from overread.domain import BadInputError
from overread.ensemble.compute import choose_device
from overread.ensemble.member_training import Optimiser
from overread.ensemble.training import TrainingOptions

# Where neither steps nor minutes are given and members go on from the champion: all members together on the CPU, so
# that whoever clicks on Train sees the end of it; steps of each member on a GPU.
DEFAULT_MINUTES_CPU = 4.0
DEFAULT_ITERATIONS_GPU = 1_000


@dataclass(frozen=True)
class RetrainingOptions:
    """How to retrain.

    Attributes:
        start: `champion`: member m goes on from the champion's member m; `scratch`: from random weights, with the
            same plan (a check against drift).
        iterations, minutes: as in `TrainingOptions`; without either a few minutes on the CPU (see
            `DEFAULT_MINUTES_CPU`), from scratch as long as `overread train` takes.
        replay_share: of the patches that are of central cases.
        rate_factor: of the learning rate, for `champion`.
        restained: share of the central patches that are shown in the colours of an accepted picture, so that colours
            do not tell where a patch is from. RGB pictures only.
        lent: the same for the colours of centres that lack a structure: where hardly anything but background was
            accepted of a place, its colours would stand for background. Each of n centres lends its colours to
            `lent` / n of the central patches that are not `restained`, times the square of what it lacks (see
            `lacking`). RGB pictures only, and not with `apart`, where each place is normalised by itself.
        pseudo_share: of the patches that are not of central cases, of pictures that a model labelled (see
            `pseudo_labels`), where there are such; all of them where no reader labelled anything.
        adabn: whether the members' batch statistics are at last those of the local images alone (see
            `ensemble.adabn`), not of local and central ones together.
        apart: whether all patches of a step are of one place (the central data are one, each centre of local cases
            another), so that batch norms see each with its own statistics in training, as they do afterwards where
            the statistics are a place's own.
        seed, device, precision, threads, clock, checkpoint_every_s, optimiser: as in `TrainingOptions`.
    """

    start: Literal["champion", "scratch"] = "champion"
    iterations: int | None = None
    minutes: float | None = None
    replay_share: float = 0.5
    rate_factor: float = 0.1
    restained: float = 0.0
    lent: float = 0.0
    pseudo_share: float = 0.0
    adabn: bool = False
    apart: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    clock: Literal["wall", "processor"] = "wall"
    checkpoint_every_s: float = 30.0
    optimiser: Optimiser = "auto"

    def __post_init__(self) -> None:
        if self.start not in ("champion", "scratch"):
            raise BadInputError(f"start {self.start!r} is not known; use champion or scratch")
        if not 0 <= self.replay_share <= 1:
            raise BadInputError(f"replay_share is {self.replay_share}, expected 0 to 1")
        for name in ("restained", "lent", "pseudo_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.pseudo_share and self.apart:
            raise BadInputError(
                "pseudo_share and apart exclude each other: a step shows one place, labelled or not"
            )
        if not self.rate_factor > 0:
            raise BadInputError(f"rate_factor is {self.rate_factor}, expected more than 0")
        self.budget(1)

    def budget(self, members: int) -> TrainingOptions:
        """The same for that many members, with what is left open decided."""
        iterations, minutes = self.iterations, self.minutes
        if iterations is None and minutes is None and self.start == "champion":
            if choose_device(self.device).type == "cpu":
                minutes = DEFAULT_MINUTES_CPU
            else:
                iterations = DEFAULT_ITERATIONS_GPU
        return TrainingOptions(
            members=members,
            iterations=iterations,
            minutes=minutes,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            checkpoint_every_s=self.checkpoint_every_s,
            clock=self.clock,
            optimiser=self.optimiser,
        )
