"""Training a MedUHIP model, through any number of interruptions.

The work folder:

    session.json            what is being trained on what; a start with something else is refused
    plan.json               the plan
    cases/                  prepared cases (see `rated_store`)
    model.checkpoint.pt     in progress
    ensemble/               the finished model; appears complete or not at all
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from overread.domain import BadInputError
from overread.ensemble.augmentation import augment, augment_lightly
from overread.ensemble.compute import choose_device, choose_precision, lay_out
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import LARGEST_GRADIENT, DivergedError
from overread.ensemble.plan import Plan
from overread.ensemble.training import StoppedError
from overread.meduhip.configuration import SAM
from overread.meduhip.episode import NOTHING, EpisodeOptions, play
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.rated_store import RatedStore

if TYPE_CHECKING:
    from overread.meduhip.sam import SamBackend

LEARNING_RATE = 5e-3
# Of the backend `sam`, by size. The paper's (section 4.2) for ViT-B, whose weights a higher one would spoil.
SAM_LEARNING_RATE = {"small": 1e-3, "vit_b": 1e-4}
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 1e-2
POLY_EXPONENT = 0.9
# The weights kept are a running mean of the last few hundred steps.
AVERAGING = 0.99
# Share of the patches that are centred on foreground.
FOREGROUND_SHARE = 1 / 2
RUNNING = 0.05
AUGMENTATIONS = {"full": augment, "light": augment_lightly}
# A few hundred steps are too few to profit from everything that nnU-Net varies.
DEFAULT_AUGMENTATION = {"cpu": "light", "cuda": "full"}
PRECISIONS = ("auto", "float32", "bfloat16")
DEFAULT_ITERATIONS = {"cpu": 1_500, "cuda": 20_000}


@dataclass(frozen=True)
class MedUHIPOptions:
    """How to train.

    Attributes:
        iterations: episodes; None leaves it to `minutes`, or to `DEFAULT_ITERATIONS` without those.
        minutes: time by `clock`, counted over interruptions.
        warm_share: share of the budget in which masks are learnt before any interaction is played: whoever reacts
            to nonsense learns nonsense.
        click_share: share of the budget after that in which one opinion learns what clicks mean, before there are
            several opinions.
        seed: of everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: cores to use on the CPU; None leaves it to torch.
        checkpoint_every_s: most seconds of training that an interruption can cost.
        clock: `wall` or `processor`, for comparisons on a busy machine.
        learning_rate: of all three optimisers at the start; it falls to 0 over the budget.
        episode: how episodes are played.
        augmentation: `full` or `light`, see `ensemble.augmentation`; None takes `light` on the CPU, else `full`.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies it natively, but for
            volumes on a processor.
        weights: of the backend `sam`: a local file of SAM or MedSAM to begin with, read once (see
            `sam_weights.read_weights`); None begins with random weights.
    """

    iterations: int | None = None
    minutes: float | None = None
    warm_share: float = 0.3
    click_share: float = 0.35
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    checkpoint_every_s: float = 30.0
    clock: str = "wall"
    learning_rate: float = LEARNING_RATE
    episode: EpisodeOptions = field(default_factory=EpisodeOptions)
    augmentation: str | None = None
    precision: str = "auto"
    weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "minutes", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInputError(f"{name} is {value}, expected more than 0")
        shares = (self.warm_share, self.click_share)
        if min(shares) < 0 or sum(shares) >= 1:
            raise BadInputError(
                f"warm_share is {self.warm_share} and click_share {self.click_share}, expected 0 or more, and together "
                "below 1"
            )
        if self.augmentation not in (None, *AUGMENTATIONS):
            raise BadInputError(
                f"augmentation {self.augmentation!r} is not known; there are {', '.join(AUGMENTATIONS)}"
            )
        if self.clock not in ("wall", "processor"):
            raise BadInputError(f"clock {self.clock!r} is not known; use wall or processor")
        if self.precision not in PRECISIONS:
            raise BadInputError(f"precision {self.precision!r} is not known; use {', '.join(PRECISIONS)}")

    def multiplies_in(self, device: torch.device, axes: int) -> torch.dtype:
        """The type that the networks compute in on a device."""
        # On processors bfloat16 made trainings of small volumes diverge, and those gone on with differ.
        is_risky = self.precision == "auto" and device.type == "cpu" and axes == 3
        if self.precision == "float32" or is_risky:
            return torch.float32
        # Without bfloat16 in hardware float32: float16 would need its losses scaled.
        chosen = choose_precision(self.precision, device)
        return chosen if chosen == torch.bfloat16 else torch.float32


@dataclass(frozen=True)
class MedUHIPProgress:
    """Where a training stands.

    Attributes:
        share: that is done, 0 to 1.
        iteration: episodes so far.
        loss: running mean; None before the first.
        seconds_left: estimate; None while unknown.
    """

    share: float
    iteration: int
    loss: float | None
    seconds_left: float | None


def train_meduhip(
    work: Path,
    cases: Sequence[str] | Lesson,
    plan: Plan,
    configuration: Configuration,
    options: MedUHIPOptions,
    report: Callable[[MedUHIPProgress], None] = lambda _: None,
    stop: Event | None = None,
    start: MedUHIP | None = None,
    prepared: Path | None = None,
) -> MedUHIP:
    """Train until the budget is spent; given the same work folder again, go on from the last checkpoint.

    Args:
        work: keeps checkpoints; holds `cases/`, filled with `RatedStore`.
        cases: ids to learn from, alike or in a lesson's shares.
        plan: of patches and augmentation.
        configuration: of the networks.
        report: hears where the training stands, about once a second.
        stop: ends the training at the next step once it is set.
        start: weights to begin from, rather than from `options.weights`.
        prepared: the folder that holds `cases/`, where it is another than `work`.

    Returns:
        The model with the running mean of its weights, in evaluation mode.

    Raises:
        StoppedError: `stop` was set before the end. DivergedError: a loss was not finite.
    """
    if not cases:
        raise BadInputError("there is no case to train on")
    training = _Training(work, cases, plan, configuration, options, start, prepared or work)
    told = 0.0
    while training.share < 1:
        if stop is not None and stop.is_set():
            training.save()
            raise StoppedError(
                f"the training was stopped after {training.share:.0%} of it; started again, it goes on from there"
            )
        training.step()
        now = time.monotonic()
        if now - told > 1 or training.share >= 1:
            told = now
            report(training.progress())
    return training.finished()


class PatchSource:
    """Batches of patches with what every rater said, the same ones whenever they are asked.

    Args:
        prepared: folder that holds `cases/`.
        cases: ids to draw from, alike or in a lesson's shares.
        plan: of patches and augmentation.
        seed: of the draws.
        augmentation: by name.
    """

    def __init__(
        self,
        prepared: Path,
        cases: Sequence[str] | Lesson,
        plan: Plan,
        seed: int,
        augmentation: str = "light",
    ) -> None:
        self.store, self.plan, self.seed = RatedStore(prepared / "cases"), plan, seed
        self.lesson = cases if isinstance(cases, Lesson) else Lesson((Pool(tuple(cases)),))
        self.vary = AUGMENTATIONS[augmentation]

    def batch(self, iteration: int, structure: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(batch, channel, *patch)` and what each rater said of a structure `(batch, rater, *patch)`.

        Raters are drawn with repetition where cases have different numbers of them.
        """
        generator = torch.Generator().manual_seed(_seed(self.seed, str(iteration)))
        images, masks = [], []
        for _ in range(self.plan.batch):
            case = self.lesson.draw(generator)
            on_foreground = float(torch.rand(1, generator=generator)) < FOREGROUND_SHARE
            image, codes = self.store.sample(case, self.plan.patch, generator, on_foreground=on_foreground)
            image, codes = self.vary(image, codes, self.plan, generator)
            images.append(image)
            masks.append((self.store.raters(case, codes) == structure + 1).float())
        most = max(len(mask) for mask in masks)
        filled = [
            mask if len(mask) == most else mask[torch.randint(len(mask), (most,), generator=generator)]
            for mask in masks
        ]
        return torch.stack(images), torch.stack(filled)


_Batch = tuple[torch.Tensor, torch.Tensor]


class _Training:
    def __init__(
        self,
        work: Path,
        cases: Sequence[str] | Lesson,
        plan: Plan,
        configuration: Configuration,
        options: MedUHIPOptions,
        start: MedUHIP | None,
        prepared: Path,
    ) -> None:
        self.work, self.options = Path(work), options
        self.checkpoint = checkpoint_of(self.work)
        self.device = choose_device(options.device)
        augmentation = options.augmentation or DEFAULT_AUGMENTATION[self.device.type]
        self.source = PatchSource(prepared, cases, plan, options.seed, augmentation)
        self.clock: Callable[[], float] = time.monotonic if options.clock == "wall" else time.thread_time
        if options.threads and self.device.type == "cpu":
            torch.set_num_threads(options.threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(options.seed, "weights"))
            self.model = MedUHIP(configuration)
        self.precision = options.multiplies_in(self.device, configuration.axes)
        self.layout = lay_out(self.model, self.device, configuration.axes, self.precision)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        elif options.weights is not None and not self.checkpoint.exists():
            cast("SamBackend", self.model.backend).begin_with(options.weights)
        self.model.train()
        self.average = {name: value.detach().clone() for name, value in averaged(self.model)}
        self.optimiser = three_optimisers(self.model, options.learning_rate)
        self.most = options.iterations
        if self.most is None and options.minutes is None:
            self.most = DEFAULT_ITERATIONS[self.device.type]
        self.iteration, self.spent_s, self.saved_s = 0, 0.0, 0.0
        # While a GPU computes, the next batch is made.
        self.reader = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self.coming: tuple[int, Future[_Batch]] | None = None
        self.loss: float | None = None
        self.curve: list[float] = []
        self._resume()

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 to 1."""
        by_time = self.spent_s / (60 * self.options.minutes) if self.options.minutes else 0.0
        by_steps = self.iteration / self.most if self.most else 0.0
        return min(1.0, max(by_time, by_steps))

    def progress(self) -> MedUHIPProgress:
        """For whoever watches."""
        left = self.spent_s * (1 - self.share) / self.share if self.share > 0 else None
        return MedUHIPProgress(self.share, self.iteration, self.loss, left)

    def step(self) -> None:
        """One episode."""
        started = self.clock()
        rng = np.random.default_rng([self.options.seed, self.iteration])
        episode = self.options.episode
        if self.share < self.options.warm_share:
            episode = warm(episode)
        elif self.share < self.options.warm_share + self.options.click_share:
            episode = clicking(episode)
        for group in self.optimiser.param_groups:
            group["lr"] = group["full"] * (1 - self.share) ** POLY_EXPONENT
        structure = self._structure(rng)
        images, raters = self._batch(structure)
        images, raters = images.to(self.device, memory_format=self.layout), raters.to(self.device)
        losses = play(self.model, images, raters, episode, rng, structure, self.precision)
        value = float(losses.total.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss became {value} at episode {self.iteration}; try a lower learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        weight = 1 - min(AVERAGING, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, current in averaged(self.model):
                self.average[name].lerp_(current, weight)
        self.loss = value if self.loss is None else (1 - RUNNING) * self.loss + RUNNING * value
        self.iteration += 1
        self.spent_s += self.clock() - started
        if self.spent_s - self.saved_s > self.options.checkpoint_every_s and self.share < 1:
            self.save()

    def _structure(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.model.structures)))

    def _batch(self, structure: int) -> _Batch:
        if self.reader is None:
            return self.source.batch(self.iteration, structure)
        if self.coming is not None and self.coming[0] == self.iteration:
            batch = self.coming[1].result()
        else:
            batch = self.source.batch(self.iteration, structure)
        following = self.iteration + 1
        other = self._structure(np.random.default_rng([self.options.seed, following]))
        self.coming = following, self.reader.submit(self.source.batch, following, other)
        return batch

    def finished(self) -> MedUHIP:
        """The model with its averaged weights."""
        if self.reader is not None:
            self.reader.shutdown(cancel_futures=True)
        with torch.no_grad():
            for name, value in averaged(self.model):
                value.copy_(self.average[name])
        return self.model.eval()

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
            "spent_s": self.spent_s,
            "loss": self.loss,
        }
        temporary = self.work / ".model.checkpoint.pt"
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)
        self.saved_s = self.spent_s

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.loss = state["average"], state["loss"]
        self.iteration, self.spent_s = state["iteration"], state["spent_s"]
        self.saved_s = self.spent_s


def checkpoint_of(work: Path) -> Path:
    """Where a training in progress is kept."""
    return work / "model.checkpoint.pt"


def usual_rate(configuration: Configuration) -> float:
    """The learning rate where nobody says another."""
    return SAM_LEARNING_RATE[configuration.size] if configuration.backend == SAM else LEARNING_RATE


def averaged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What is averaged over steps: parameters that are learnt, and the statistics of batch normalisation."""
    learnt = ((name, value) for name, value in model.named_parameters() if value.requires_grad)
    for name, value in (*learnt, *model.named_buffers()):
        if value.is_floating_point():
            yield name, value


def three_optimisers(model: MedUHIP, rate: float) -> torch.optim.Optimizer:
    """theta_Seg (eq. 3), theta_MVP (eq. 6) and theta_W (eq. 7), each with a state of its own, in one object."""
    structures = range(len(model.structures))
    groups = [
        [p for p in model.segmentation_parameters() if p.requires_grad],
        [p for index in structures for p in model.sampling(index).moving_parameters()],
        [p for index in structures for p in model.sampling(index).weights.parameters()],
    ]
    named = [{"params": parameters, "full": rate} for parameters in groups]
    return torch.optim.AdamW(named, rate, betas=BETAS, weight_decay=WEIGHT_DECAY)


def warm(episode: EpisodeOptions) -> EpisodeOptions:
    """An episode without interactions or samples, for the beginning."""
    return replace(clicking(episode), turns=1)


def clicking(episode: EpisodeOptions) -> EpisodeOptions:
    """An episode with one opinion and clicks on its errors."""
    return replace(episode, samples=1, set_weight=0.0, coverage_weight=0.0, pick_share=0.0, sampler=NOTHING)


def _seed(seed: int, what: str) -> int:
    return int.from_bytes(sha256(f"{seed} {what}".encode()).digest()[:8], "big") >> 1
