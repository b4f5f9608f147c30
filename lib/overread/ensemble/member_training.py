"""One member in training: it steps when it is told to, and can be stopped and continued anywhere."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from hashlib import sha256
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from overread.domain import BadInputError, OverreadError
from overread.domain.labels import IGNORE
from overread.ensemble.adabn import BATCHES, estimate_statistics
from overread.ensemble.ahead import made_ahead
from overread.ensemble.augmentation import augment
from overread.ensemble.compute import lay_out
from overread.ensemble.dynunet import (
    SupervisedLoss,
    build_network,
    fill_network,
    member_weights,
    supervised_logits,
)
from overread.ensemble.lesson import Lesson, Stain, drawn_by_share
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Plan
from overread.ensemble.stain import in_colours

Optimiser = Literal["auto", "adamw", "sgd"]
# On the CPU, where budgets are short: AdamW. On 32 hippocampus cases (2026-11, 200 steps of 2 patches) it reached a
# held-out Dice of 0.85 with rates from 3e-3 to 1e-2, where nnU-Net's SGD had not left the background yet.
CPU_LEARNING_RATE = 5e-3
CPU_BETAS = (0.9, 0.99)
CPU_WEIGHT_DECAY = 1e-2
# On a GPU, where budgets are long: nnU-Net's stochastic gradient descent.
GPU_LEARNING_RATE = 1e-2
GPU_MOMENTUM = 0.99
GPU_WEIGHT_DECAY = 3e-5
# Both: the rate falls as (1 - share of the budget)^0.9, as nnU-Net's.
POLY_EXPONENT = 0.9
LARGEST_GRADIENT = 12.0
# Share of the patches that are centred on foreground.
FOREGROUND_SHARE = 1 / 3
# The weights kept are a running mean of the last few hundred steps.
AVERAGING = 0.99
# A member that goes on counts as that many steps averaged already: of what it was, 16 % are left after 20 steps.
STEPS_BEFORE = 80
# Share that the last batch has in the running loss and Dice.
RUNNING = 0.05
# Points of the loss curve that is kept with the member.
CURVE_POINTS = 50


class DivergedError(OverreadError):
    """The numbers of a training became infinite or NaN."""


class MemberTraining:
    """One network, its optimiser and its files below `folder`.

        member_0.checkpoint.pt   in progress
        member_0.pt              finished weights
        member_0.json            facts about them, written last: with this file the member is finished

    Args:
        index: which member; decides start and order.
        plan: of the network.
        lesson: what to learn from, of what is in `store`, and what to start with.
        folder: of the three files.
        seed: of the whole training.
        most_iterations, budget_s: what ends the training; at least one is given.
        checkpoint_every_s: time between checkpoints.
        device, precision: where and how to compute.
        clock: seconds that count against the budget.
        optimiser: see `TrainingOptions`.
        loaders: most threads that make batches ahead of a GPU; None takes all cores but one.
    """

    def __init__(
        self,
        index: int,
        plan: Plan,
        lesson: Lesson,
        store: PatchStore,
        folder: Path,
        *,
        seed: int,
        most_iterations: int | None,
        budget_s: float | None,
        checkpoint_every_s: float,
        device: torch.device,
        precision: torch.dtype,
        clock: Callable[[], float] = time.monotonic,
        optimiser: Optimiser = "auto",
        loaders: int | None = None,
    ) -> None:
        self.index, self.plan, self.lesson, self.store, self.folder = index, plan, lesson, store, folder
        self.seed, self.most_iterations, self.budget_s = seed, most_iterations, budget_s
        self.checkpoint_every_s, self.device, self.precision = checkpoint_every_s, device, precision
        self.clock, self.loaders = clock, loaders
        # Steps after which is read what one told: a GPU is not waited for.
        self.late = 0 if device.type == "cpu" else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(seed, index, "weights"))
            self.network = build_network(plan, for_training=lesson.start is None)
        if lesson.start is not None:
            fill_network(self.network, lesson.start)
        self.layout = lay_out(self.network, device, len(plan.patch), precision)
        self.network.train()
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.criterion = SupervisedLoss()
        self.optimiser = _optimiser(self.network, device, lesson.rate_factor, optimiser)
        self.full_rate: float = self.optimiser.param_groups[0]["lr"]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.iteration, self.spent_s = 0, 0.0
        self.saved_s = 0.0
        self.loss: float | None = None
        self.dice: float | None = None
        self.curve = [[0.0, 0.0] for _ in range(CURVE_POINTS)]
        self._resume()

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 to 1."""
        by_time = self.spent_s / self.budget_s if self.budget_s else 0.0
        by_steps = self.iteration / self.most_iterations if self.most_iterations else 0.0
        return min(1.0, max(by_time, by_steps))

    def run(self, seconds: float, stop: Event, heard: Callable[[MemberTraining], None]) -> None:
        """Step for that long, until `stop` is set or until the budget is spent; then write what there is.

        Args:
            seconds: training time after which to return.
            stop: asks to end early.
            heard: called with this after every step.
        """
        until_s = self.spent_s + seconds
        told: deque[tuple[int, float, torch.Tensor]] = deque()
        with closing(self._batches()) as batches:
            while self.share < 1 and self.spent_s < until_s and not stop.is_set():
                started = self.clock()
                images, labels = next(batches)
                share = self.share
                told.append((self.iteration, share, self._step(images, labels, share)))
                self._hear(told, self.late)
                self.iteration += 1
                self.spent_s += self.clock() - started
                heard(self)
                if self.spent_s - self.saved_s > self.checkpoint_every_s and self.share < 1:
                    # No weights of a step that diverged are kept.
                    self._hear(told)
                    self._save()
            self._hear(told)
        if self.share >= 1:
            self._finish()
        elif stop.is_set():
            self._save()

    def _hear(self, told: deque[tuple[int, float, torch.Tensor]], but: int = 0) -> None:
        """Take in what steps told (see `_step`), but for the last so many."""
        while len(told) > but:
            iteration, share, values = told.popleft()
            value, dice = values.tolist()
            if not np.isfinite(value):
                raise DivergedError(
                    f"member {self.index}: the loss became {value} at iteration {iteration}; "
                    "try precision float32"
                )
            self.loss = _running(self.loss, value)
            if np.isfinite(dice):
                self.dice = dice if self.dice is None else _running(self.dice, dice)
            point = self.curve[int(share * CURVE_POINTS)]
            point[0] += value
            point[1] += 1

    def _step(self, images: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """One step. Returns the loss, and the Dice of what the member said about the patches (see `patch_dice`).

        Nothing here waits for a GPU: it has the next step before it is done with this one.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.full_rate * (1 - share) ** POLY_EXPONENT
        is_partial = bool((labels == IGNORE).any())
        images = images.to(self.device, non_blocking=True, memory_format=self.layout)
        labels = labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            goes_on = self.lesson.start is not None
            outputs = [self.network(images)] if goes_on else supervised_logits(self.network, images)
        loss = self.criterion(outputs, labels, is_partial)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        # A short memory at first, so that the random start is forgotten.
        steps = self.iteration + (STEPS_BEFORE if self.lesson.start is not None else 0)
        weight = 1 - min(AVERAGING, (1 + steps) / (10 + steps))
        follow = get_ema_multi_avg_fn(1 - weight)
        follow(list(self.average.values()), list(self.network.parameters()), None)
        return torch.stack([loss.detach(), patch_dice(outputs[0].detach(), labels)])

    def batch(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The patches of one step: the same ones whenever it is asked, so that a resumed training goes on as before."""
        generator = torch.Generator().manual_seed(_seed(self.seed, self.index, iteration))
        images, labels = [], []
        pool = self.lesson.draw_pool(generator) if self.lesson.apart else None
        for _ in range(self.plan.batch):
            case = self.lesson.draw(generator, pool)
            on_foreground = float(torch.rand(1, generator=generator)) < FOREGROUND_SHARE
            image, label = self.store.sample(case, self.plan.patch, generator, on_foreground=on_foreground)
            image = self._restained(case, image, generator)
            image, label = augment(image, label, self.plan, generator)
            images.append(image)
            labels.append(label)
        return torch.stack(images), torch.stack(labels)

    def _restained(self, case: str, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A patch of the case, perhaps in another one's colours (see `Restaining`)."""
        rule = self.lesson.restaining
        if rule is None or case not in rule.cases:
            return image
        like = drawn_by_share(rule.like, generator)
        if like is None:
            return image
        if isinstance(like, Stain):
            return in_colours(image, like.here, like.there)
        return in_colours(image, self.store.colours(case), self.store.colours(like.draw(generator)))

    def _batches(self) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Batches from the current iteration on; made ahead by threads where a GPU does the steps."""
        if self.device.type != "cpu":
            threads = self.loaders or max(1, (os.cpu_count() or 2) - 1)
            yield from made_ahead(self._pinned_batch, self.iteration, threads)
        for iteration in count(self.iteration):
            yield self.batch(iteration)

    def _pinned_batch(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`batch` in memory that a GPU reads without anybody waiting."""
        images, labels = self.batch(iteration)
        return images.pin_memory(), labels.pin_memory()

    def _file(self, suffix: str) -> Path:
        return self.folder / f"member_{self.index}.{suffix}"

    def _resume(self) -> None:
        path = self._file("checkpoint.pt")
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.average = state["average"]
        self.iteration, self.spent_s = state["iteration"], state["spent_s"]
        self.loss, self.dice, self.curve = state["loss"], state.get("dice"), state["curve"]
        self.saved_s = self.spent_s

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
            "spent_s": self.spent_s,
            "loss": self.loss,
            "dice": self.dice,
            "curve": self.curve,
        }
        _save_whole(state, self._file("checkpoint.pt"))
        self.saved_s = self.spent_s

    def _finish(self) -> None:
        if not all(bool(value.isfinite().all()) for value in self.average.values()):
            raise DivergedError(
                f"member {self.index}: weights became infinite or NaN by iteration {self.iteration}; "
                "try precision float32"
            )
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(self.average[name])
        self._settle_statistics()
        _save_whole(member_weights(self.network), self._file("pt"))
        facts = {
            "iterations": self.iteration,
            "seconds": round(self.spent_s, 1),
            "loss": [round(total / count, 4) for total, count in self.curve if count],
            "cases": self.lesson.cases,
            "device": self.device.type,
            "precision": str(self.precision).removeprefix("torch."),
        }
        write_json(facts, self._file("json"))
        self._file("checkpoint.pt").unlink(missing_ok=True)

    def _settle_statistics(self) -> None:
        """Batch statistics of the averaged weights: those that the steps left are of other weights.

        Izmailov et al. 2018 (arXiv:1803.05407), section 3.2.
        """
        if self.plan.norm != "batch":
            return
        batches = (self.batch(self.iteration + index)[0].to(self.device) for index in range(BATCHES))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            estimate_statistics(self.network, batches)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def patch_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Hard Dice of a batch against its labels, mean over the foreground classes that are labelled in it.

    Args:
        logits: `(batch, class, *patch)`.
        labels: `(batch, *patch)`; voxels of `IGNORE` do not count.

    Returns:
        One number, 0 to 1, where the logits are; NaN where no foreground is labelled.
    """
    classes = logits.shape[1]
    joint = (labels * classes + logits.argmax(dim=1)).where(labels != IGNORE, -1)
    # Unlike `bincount`, this one need not be waited for.
    counts = torch.histc(joint.float(), classes**2, -0.5, classes**2 - 0.5).reshape(classes, classes)
    present = counts.sum(dim=1) > 0
    dice = 2 * counts.diagonal() / (counts.sum(dim=0) + counts.sum(dim=1))
    return dice[1:].where(present[1:], torch.nan).nanmean()


def _running(before: float | None, now: float) -> float:
    return now if before is None else (1 - RUNNING) * before + RUNNING * now


def check_optimiser(name: str) -> None:
    """Raise BadInputError for an optimiser that is not known."""
    if name not in get_args(Optimiser):
        raise BadInputError(f"optimiser {name!r} is not known; use {', '.join(get_args(Optimiser))}")


def _optimiser(
    network: torch.nn.Module, device: torch.device, rate_factor: float, kind: Optimiser
) -> torch.optim.Optimizer:
    # One kernel for all weights: small networks' steps are made of launches.
    fused = device.type == "cuda"
    if kind == "adamw" or (kind == "auto" and device.type == "cpu"):
        rate = rate_factor * CPU_LEARNING_RATE
        return torch.optim.AdamW(
            network.parameters(), rate, betas=CPU_BETAS, weight_decay=CPU_WEIGHT_DECAY, fused=fused
        )
    rate = rate_factor * GPU_LEARNING_RATE
    return torch.optim.SGD(
        network.parameters(), rate, GPU_MOMENTUM, weight_decay=GPU_WEIGHT_DECAY, nesterov=True, fused=fused
    )


def _seed(seed: int, member: int, what: int | str) -> int:
    """Independent random streams by what they are for."""
    return int.from_bytes(sha256(f"{seed} {member} {what}".encode()).digest()[:8], "big") >> 1


def _save_whole(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    torch.save(state, temporary)
    temporary.replace(path)
