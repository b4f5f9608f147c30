"""What decides a study's numbers, and the two sizes that it comes in."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, get_args

from overread.domain import BadInputError
from overread.ensemble.plan import Hardware
from overread.learning.options import RetrainingOptions
from overread.queue.patches.strategies import PATCH_STRATEGIES
from overread.queue.settings import QueueSettings
from overread.queue.shares import TWICE

# Arms that ask nobody: the model as it is, with stain augmentation, with the place's own batch statistics, and taught
# by what it says itself with those.
NONE, HED, ADABN, PSEUDO = "none", "hed", "adabn", "pseudo"
# Everything in the pool is labelled.
ALL = "all"
UNASKED = (NONE, HED, ADABN, PSEUDO)
ARMS = (
    NONE,
    ALL,
    "random",
    "foreground_random",
    "most_uncertain",
    "clasp_pe",
    "sure_and_unsure",
    "uga",
    "pairwise_dice",
    HED,
    ADABN,
    PSEUDO,
)
# Only where pictures are stained.
STAINED = (HED, ADABN, PSEUDO)
# What colours are measured on.
Normalised = Literal["", "slide", "place"]
# Which queue asks.
Queue = Literal["", "patches", "cases"]
# Of the patches that are not central ones in a retraining from a self-taught model.
PSEUDO_SHARE = 0.5


@dataclass(frozen=True)
class Scale:
    """How finely a set of pictures is seen.

    Attributes:
        um_per_px: pixel of the model; the set's own where None.
        patch_px: edge of an asked patch; the set's own where None.
        window_px: edge of the network's window in training.
        batch: windows in a training step.
        look_windows: edge of the window when a picture is looked at, in training windows. Networks normalised by
            batch say the same in larger windows, and sooner.
    """

    um_per_px: float | None = None
    patch_px: int | None = None
    window_px: int = 64
    batch: int = 8
    look_windows: int = 2


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the numbers of one set; what is equal gives equal results.

    Attributes:
        preset: the name it began with.
        budgets: patches per local domain that are labelled in all, round by round.
        members: networks of an ensemble.
        starter_iterations: training steps of each member of the first model.
        iterations: the same of a retraining.
        begin: a retraining goes on from the model before, or from `scratch`.
        replay_share, rate_factor, restained, lent: see `RetrainingOptions`.
        pooled: patches of all places compete, as in the paper; otherwise each place has its own.
        gated: a retraining spares cases to judge by, as at a hospital, and the gate's verdict is told. Without,
            every member learns from every label.
        by_place: a model asks and is judged with each place's own batch statistics, the first place's too, from
            pictures that nobody labelled (see the arm `adabn`), and learns from one place a step. Pictures only.
        beside: with `by_place`, a step sees as many such pictures as labelled ones, so that what is asked about does
            not make the statistics.
        self_taught: arms that ask begin with the model of the arm `pseudo`, and see what taught it again in every
            retraining. Pictures only.
        normalised: every picture and slide, of the first place too, is learnt from, looked at and asked about in the
            colours of the slides that teach (see `imaging.slides.normalised`), measured on each `slide` alone or on the
            slides of its `place`, as in service where centres are known; empty: as it is. Pictures only.
        obeyed: as at a hospital, what the gate rejects is not served: the model before it goes on to ask, to be trained
            and to be judged. Otherwise every training counts.
        peaks: exponent of doubt before it becomes a patch's mean. Above 1, a few pixels of much doubt count for more
            than many of little; at 1 a patch is scored as in service. Of the queue of patches, as the next.
        share: see `QueueSettings`. With 100 nothing holds a strategy back from one slide.
        queue: which queue of the server asks: that of `cases` asks about volumes, that of `patches` about pictures.
            With `patches` a volume is one patch, its slices side by side, as in tables made before there was a choice,
            and where a strategy is none of cases (`uga`). Empty: the one that would ask at a hospital.
        stain: strength of the stain augmentation of all arms but `hed`.
        hed: that of the arm `hed`.
        batch: windows of a volume in a training step.
        features: channels of the first resolution; most_features: of any.
        stages: resolutions.
        voxels: most voxels of a window of volumes.
        step: distance of neighbouring windows when a picture is looked at, as a share of the window.
        most_cases: of each group and domain.
        patches_per_slide: cut from each central slide to learn from.
        scale: of sets of pictures that are not named in `scales`.
        scales: by set.
    """

    preset: str = "small"
    budgets: tuple[int, ...] = (5, 10)
    members: int = 3
    starter_iterations: int = 250
    iterations: int = 200
    begin: Literal["champion", "scratch"] = "champion"
    replay_share: float = 0.5
    rate_factor: float = 0.5
    restained: float = 0.0
    lent: float = 0.0
    pooled: bool = False
    gated: bool = True
    obeyed: bool = False
    peaks: float = 1.0
    share: float = TWICE
    queue: Queue = ""
    by_place: bool = False
    beside: bool = False
    self_taught: bool = False
    normalised: Normalised = ""
    stain: float = 0.0
    hed: float = 0.2
    batch: int = 4
    features: int = 12
    most_features: int = 64
    stages: int = 4
    voxels: int = 32 * 32 * 16
    step: float = 0.75
    most_cases: int = 24
    patches_per_slide: int = 16
    scale: Scale = Scale()
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.budgets or list(self.budgets) != sorted({*self.budgets}) or self.budgets[0] < 1:
            raise BadInputError(f"budgets are patches in all and rise, such as 5 10; got {self.budgets}")
        for name in (
            "members",
            "starter_iterations",
            "iterations",
            "batch",
            "most_cases",
            "patches_per_slide",
        ):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.obeyed and not self.gated:
            raise BadInputError("obeyed is yes and gated no: without a gate there is nothing to obey")
        if self.beside and not self.by_place:
            raise BadInputError(
                "beside is yes and by_place no: without statistics of a place there is nothing to see"
            )
        if self.normalised not in get_args(Normalised):
            raise BadInputError(f"normalised is {self.normalised!r}, expected slide or place")
        if self.queue not in get_args(Queue):
            raise BadInputError(f"queue is {self.queue!r}, expected patches or cases")
        if not 0 < self.peaks < math.inf:
            raise BadInputError(f"peaks is {self.peaks}, expected an exponent above 0")
        if self.self_taught and self.by_place:
            raise BadInputError(
                "self_taught and by_place are both yes: what taught itself needs no statistics"
            )
        # The rest is checked by those who use it, before the first hour has passed.
        self.retraining(0)
        QueueSettings(share=self.share)

    @property
    def before_asking(self) -> tuple[str, ...]:
        """Arms that must be done before one that asks."""
        return (NONE, PSEUDO) if self.self_taught else (NONE,)

    def of_axes(self, axes: int) -> Protocol:
        """The same for pictures (2) or volumes (3), with the queue that asks about these.

        Raises:
            BadInputError: something in it is not for volumes, or not for pictures.
        """
        if axes == 3:
            for change in ("by_place", "self_taught", "normalised", "peaks", "share"):
                if getattr(self, change) != getattr(PRESETS["small"], change):
                    raise BadInputError(f"{change} is for pictures, not for volumes")
        elif self.queue == "cases":
            raise BadInputError("the queue of cases is for volumes; pictures are asked about by patches")
        return self.changed({"queue": self.queue or ("cases" if axes == 3 else "patches")})

    def scale_of(self, set_name: str) -> Scale:
        """How finely a set is seen."""
        return self.scales.get(set_name, self.scale)

    def hardware(self, scale: Scale) -> Hardware:
        """The network's size."""
        window = scale.window_px**2
        return Hardware(
            {2: window, 3: self.voxels},
            {2: scale.batch * window, 3: self.batch * self.voxels},
            self.features,
            {2: self.most_features, 3: self.most_features},
            self.stages,
        )

    def retraining(self, seed: int, device: str = "auto") -> RetrainingOptions:
        """How a challenger is trained."""
        return RetrainingOptions(
            start=self.begin,
            iterations=self.iterations,
            replay_share=self.replay_share,
            rate_factor=self.rate_factor,
            restained=self.restained,
            lent=self.lent,
            apart=self.by_place,
            pseudo_share=PSEUDO_SHARE if self.self_taught else 0.0,
            seed=seed,
            device=device,
            threads=1,
            optimiser="adamw",
        )

    def changed(self, changes: Mapping[str, Any]) -> Protocol:
        """The same but for some fields."""
        return replace(self, **changes)

    def key(self) -> str:
        """A short name of all of it."""
        values = asdict(self)
        # They came later; what was done before is still found.
        for name in ("obeyed", "restained", "lent", "by_place", "beside", "self_taught", "normalised"):
            if not values[name]:
                del values[name]
        if self.queue != "cases":
            del values["queue"]
        for name, usual in (("peaks", 1.0), ("share", TWICE)):
            if values[name] == usual:
                del values[name]
        if self.normalised == "slide":
            # What it was before places came.
            values["normalised"] = True
        return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


PRESETS = {
    # Half the resolution or less: a picture costs a quarter.
    "small": Protocol(
        scales={
            "monuseg": Scale(um_per_px=1.0, patch_px=64),
            "slides": Scale(um_per_px=2.0, patch_px=128),
            "camelyon": Scale(um_per_px=2.0, patch_px=512),
        },
    ),
    "paper": Protocol(
        preset="paper",
        members=5,
        starter_iterations=400,
        iterations=150,
        features=16,
        most_features=128,
        stages=5,
        voxels=48 * 48 * 32,
        most_cases=40,
        patches_per_slide=24,
        scale=Scale(window_px=128, look_windows=4),
        scales={
            "dsb2018": Scale(window_px=64, look_windows=4),
            "slides": Scale(window_px=256, batch=4),
            "camelyon": Scale(window_px=256, batch=4),
        },
    ),
}


def in_order(arms: Collection[str]) -> list[str]:
    """Arms as tables have them: those that a study does by itself, then others."""
    return [arm for arm in ARMS if arm in arms] + sorted({*arms} - {*ARMS})


def checked_arms(names: tuple[str, ...], axes: int) -> tuple[str, ...]:
    """Arms in order, without those that mean nothing for volumes.

    Raises:
        BadInputError: there is no such arm.
    """
    known = {*ARMS, *PATCH_STRATEGIES}
    if unknown := [name for name in names if name not in known]:
        raise BadInputError(f"there is no arm {unknown[0]!r}; there are {', '.join(sorted(known))}")
    wanted = dict.fromkeys((NONE, *names))
    return tuple(name for name in wanted if axes == 2 or name not in STAINED)


def changed_protocol(preset: str, changes: Sequence[str]) -> Protocol:
    """A preset with other values for some fields, each given as `field=value`.

    Raises:
        BadInputError: there is no such preset or field, or the value is none for it.
    """
    if preset not in PRESETS:
        raise BadInputError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    protocol = PRESETS[preset]
    known = asdict(protocol)
    values: dict[str, Any] = {}
    for text in changes:
        name, _, value = text.partition("=")
        if name not in known or isinstance(known[name], dict) or name == "preset":
            fields = ", ".join(key for key in known if not isinstance(known[key], dict) and key != "preset")
            raise BadInputError(f"a protocol has no {name!r} to change; it has {fields}")
        try:
            values[name] = _parsed(value, known[name])
        except ValueError as error:
            raise BadInputError(f"{name} cannot be {value!r}: {error}") from error
    return protocol.changed(values)


def _parsed(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        if text not in ("yes", "no"):
            raise ValueError("say yes or no")
        return text == "yes"
    if isinstance(like, (tuple, list)):
        return tuple(int(part) for part in text.split(","))
    return type(like)(text)
