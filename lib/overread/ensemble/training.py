"""From a folder of labelled cases to a finished ensemble, through any number of interruptions.

The work folder:

    session.json       what is being trained on what; a start with something else is refused
    plan.json          the plan
    cases/             prepared cases (see `patch_store`)
    member_0.pt, .json finished members and their facts
    checkpoint.pt      the member in progress
    ensemble/          the finished ensemble; appears complete or not at all
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from overread.domain import BadInputError, OverreadError
from overread.ensemble.augmentation import augment
from overread.ensemble.compute import choose_device, choose_precision
from overread.ensemble.dynunet import SupervisedLoss, build_network, member_weights, supervised_logits
from overread.ensemble.ensemble import Calibration
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import CPU, GPU, Plan, make_plan
from overread.ensemble.storage import DESCRIPTION, calibration_to_json, write_description
from overread.imaging.dataset import Dataset, ensure_sound

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
DEFAULT_ITERATIONS = {"cpu": 2_000, "cuda": 50_000}
CURVE_POINTS = 50
FEWEST_CASES_TO_HOLD_OUT = 4

Stage = Literal["checking", "measuring", "preparing", "training"]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        members: number of networks.
        scheme: `deep`: all members see the same cases in other orders from other starts (Lakshminarayanan et al. 2017,
            arXiv:1612.01474); `folds`: each leaves out its part of a cross-validation.
        iterations: steps per member; None leaves it to `minutes`, or to `DEFAULT_ITERATIONS` without those.
        minutes: time for all members together; counts training steps only, also over interruptions. Where
            `iterations` is given too, what ends first ends the member.
        seed: of everything random.
        validation_share: for `deep`: share of the cases that no member sees; they calibrate the ensemble.
        device, precision: see `compute`.
        threads: of torch on the CPU; None leaves it as it is.
        checkpoint_every_s: most seconds of training that an interruption can cost.
        clock: what `minutes` are measured by; `processor` (time of this process, all its threads) is for comparing
            trainings on one thread of a busy machine.
    """

    members: int = 5
    scheme: Literal["deep", "folds"] = "deep"
    iterations: int | None = None
    minutes: float | None = None
    seed: int = 0
    validation_share: float = 0.2
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    checkpoint_every_s: float = 30.0
    clock: Literal["wall", "processor"] = "wall"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise BadInputError(f"an ensemble needs at least 1 member, got {self.members}")
        if self.scheme not in ("deep", "folds"):
            raise BadInputError(f"scheme {self.scheme!r} is not known; use deep or folds")
        if self.scheme == "folds" and self.members < 2:
            raise BadInputError("cross-validation needs at least 2 members")
        for name in ("iterations", "minutes", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInputError(f"{name} is {value}, expected more than 0")
        if not 0 <= self.validation_share < 1:
            raise BadInputError(f"validation_share is {self.validation_share}, expected 0 to below 1")


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands.

    Attributes:
        stage: `checking` the files, `measuring` the fingerprint, `preparing` cases, `training`.
        member: index of the member being trained.
        members: how many there will be.
        share: of the stage that is done, 0 to 1; for `training`, of all members.
        iteration: steps of this member so far.
        loss: mean of the last steps, None before the first.
        seconds_left: estimate for all members, None while unknown.
    """

    stage: Stage
    member: int
    members: int
    share: float
    iteration: int = 0
    loss: float | None = None
    seconds_left: float | None = None


Report = Callable[[TrainingProgress], None]


def train_ensemble(
    name: str,
    dataset: Dataset,
    work_folder: Path,
    options: TrainingOptions,
    plan_overrides: Mapping[str, Any] | None = None,
    progress: Report | None = None,
    *,
    restart: bool = False,
) -> Path:
    """Train the members that are not finished yet and put the ensemble together.

    Args:
        name: of the recipe.
        dataset: from `imaging.dataset.read_dataset`.
        work_folder: keeps everything; give the same one again to resume.
        options, plan_overrides: what to train. Changing them in mid-training needs `restart`.
        progress: hears where the training stands, about once a second.
        restart: forget what is in `work_folder`.

    Returns:
        Folder of the finished ensemble, below `work_folder`.

    Raises:
        BrokenDatasetError: cases cannot be trained on; nothing was trained.
        BadInputError: options do not fit, or the work folder holds another training.
    """
    work = Path(work_folder)
    report: Report = progress or (lambda _: None)
    held_out = hold_out(dataset, options)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    _open_session(work, _session(name, dataset, options, plan_overrides or {}), restart=restart)
    finished = work / "ensemble"
    if (finished / DESCRIPTION).exists():
        return finished
    plan = _prepare_cases(dataset, work, device, options, plan_overrides or {}, report)
    with _threads(options.threads):
        for member in range(options.members):
            if not _member_file(work, member, "json").exists():
                cases = [case.id for case in dataset.cases if case.id not in held_out[member]]
                _Member(work, plan, cases, options, member, device, precision, report).train()
    facts = [json.loads(_member_file(work, member, "json").read_text()) for member in range(options.members)]
    return _assemble(name, dataset, work, plan, held_out, facts)


def hold_out(dataset: Dataset, options: TrainingOptions) -> list[list[str]]:
    """Ids of the cases that each member does not see. Raises BadInputError where there are too few cases."""
    ids = sorted(case.id for case in dataset.cases)
    order = [ids[i] for i in np.random.default_rng(options.seed).permutation(len(ids))]
    if options.scheme == "folds":
        if len(ids) < options.members:
            raise BadInputError(
                f"{options.members} folds need as many cases, dataset {dataset.name} has {len(ids)}"
            )
        return [sorted(order[member :: options.members]) for member in range(options.members)]
    count = round(options.validation_share * len(ids))
    if options.validation_share > 0 and len(ids) >= FEWEST_CASES_TO_HOLD_OUT:
        count = max(1, count)
    return [sorted(order[: min(count, len(ids) - 1)])] * options.members


class _Member:
    """One network in training."""

    def __init__(
        self,
        work: Path,
        plan: Plan,
        cases: list[str],
        options: TrainingOptions,
        member: int,
        device: torch.device,
        precision: torch.dtype,
        report: Report,
    ) -> None:
        self.work, self.plan, self.cases, self.options, self.member = work, plan, cases, options, member
        self.device, self.precision, self.report = device, precision, report
        self.store = PatchStore(work / "cases")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(options.seed, member, "weights"))
            self.network = build_network(plan, for_training=True).to(device)
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.loss = SupervisedLoss()
        self.optimiser = _optimiser(self.network, device)
        self.full_rate: float = self.optimiser.param_groups[0]["lr"]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.iteration, self.spent_s = 0, 0.0
        self.curve: list[list[float]] = [[0.0, 0] for _ in range(CURVE_POINTS)]
        budget_s = options.minutes * 60 / options.members if options.minutes else None
        most = options.iterations
        if most is None and budget_s is None:
            most = DEFAULT_ITERATIONS[device.type]
        self.budget_s, self.most = budget_s, most
        self.clock = time.monotonic if options.clock == "wall" else time.process_time

    @property
    def share(self) -> float:
        """How much of this member's budget is spent; 1 and more ends it."""
        by_time = self.spent_s / self.budget_s if self.budget_s else 0.0
        return max(by_time, self.iteration / self.most if self.most else 0.0)

    def train(self) -> None:
        """Step until the budget is spent; write the member's weights, then its facts."""
        self._resume()
        saved = reported = time.monotonic()
        recent: float | None = None
        self.network.train()
        for images, labels in self._batches():
            started = self.clock()
            share = self.share
            value = self._step(images, labels, share)
            if not np.isfinite(value):
                raise OverreadError(
                    f"member {self.member}: the loss became {value} at iteration {self.iteration}; "
                    "try precision float32"
                )
            recent = value if recent is None else 0.95 * recent + 0.05 * value
            point = self.curve[min(CURVE_POINTS - 1, int(share * CURVE_POINTS))]
            point[0] += value
            point[1] += 1
            self.iteration += 1
            self.spent_s += self.clock() - started
            now = time.monotonic()
            if now - reported > 1 or self.share >= 1:
                self._tell(recent)
                reported = now
            if self.share >= 1:
                break
            if now - saved > self.options.checkpoint_every_s:
                self._save()
                saved = time.monotonic()
        self._finish()

    def _step(self, images: torch.Tensor, labels: torch.Tensor, share: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.full_rate * (1 - min(share, 1.0)) ** POLY_EXPONENT
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = supervised_logits(self.network, images)
        loss = self.loss(outputs, labels)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        # A short memory at first, so that the random start is forgotten.
        weight = 1 - min(AVERAGING, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                self.average[name].lerp_(value, weight)
        return float(loss.detach())

    def batch(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The patches of one step: the same ones whenever it is asked, so that a resumed training goes on as before."""
        generator = torch.Generator().manual_seed(_seed(self.options.seed, self.member, iteration))
        images, labels = [], []
        for _ in range(self.plan.batch):
            case = self.cases[int(torch.randint(len(self.cases), (1,), generator=generator))]
            on_foreground = float(torch.rand(1, generator=generator)) < FOREGROUND_SHARE
            image, label = self.store.sample(case, self.plan.patch, generator, on_foreground=on_foreground)
            image, label = augment(image, label, self.plan, generator)
            images.append(image)
            labels.append(label)
        return torch.stack(images), torch.stack(labels)

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches from the current iteration on; made ahead by threads where a GPU does the steps."""
        if self.device.type == "cpu":
            while True:
                started = self.clock()
                batch = self.batch(self.iteration)
                self.spent_s += self.clock() - started
                yield batch
        workers = max(1, (os.cpu_count() or 2) - 1)
        with ThreadPoolExecutor(workers) as pool:
            ahead: list[Future[tuple[torch.Tensor, torch.Tensor]]] = []
            following = self.iteration
            try:
                while True:
                    while len(ahead) < 2 * workers:
                        ahead.append(pool.submit(self.batch, following))
                        following += 1
                    yield ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def _tell(self, loss: float | None) -> None:
        members, own = self.options.members, min(self.share, 1.0)
        left = None
        if own > 0:
            left = self.spent_s * (1 - own) / own + self.spent_s / own * (members - self.member - 1)
        done = (self.member + own) / members
        self.report(TrainingProgress("training", self.member, members, done, self.iteration, loss, left))

    def _resume(self) -> None:
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["member"] != self.member:
            # Left behind by a member that was finished just before the interruption.
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.average = state["average"]
        self.iteration, self.spent_s, self.curve = state["iteration"], state["spent_s"], state["curve"]

    def _save(self) -> None:
        state = {
            "member": self.member,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
            "spent_s": self.spent_s,
            "curve": self.curve,
        }
        _save_whole(state, self.work / "checkpoint.pt")

    def _finish(self) -> None:
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(self.average[name])
        _save_whole(member_weights(self.network), _member_file(self.work, self.member, "pt"))
        facts = {
            "iterations": self.iteration,
            "seconds": round(self.spent_s, 1),
            "loss": [round(total / count, 4) for total, count in self.curve if count],
            "cases": len(self.cases),
            "device": self.device.type,
            "precision": str(self.precision).removeprefix("torch."),
        }
        _write_json(facts, _member_file(self.work, self.member, "json"))
        (self.work / "checkpoint.pt").unlink(missing_ok=True)


def _optimiser(network: torch.nn.Module, device: torch.device) -> torch.optim.Optimizer:
    if device.type == "cpu":
        return torch.optim.AdamW(
            network.parameters(), CPU_LEARNING_RATE, betas=CPU_BETAS, weight_decay=CPU_WEIGHT_DECAY
        )
    return torch.optim.SGD(
        network.parameters(), GPU_LEARNING_RATE, GPU_MOMENTUM, weight_decay=GPU_WEIGHT_DECAY, nesterov=True
    )


def _prepare_cases(
    dataset: Dataset,
    work: Path,
    device: torch.device,
    options: TrainingOptions,
    overrides: Mapping[str, Any],
    report: Report,
) -> Plan:
    def stage(name: Stage) -> Callable[[int, int], None]:
        return lambda done, of: report(TrainingProgress(name, 0, options.members, done / of))

    path = work / "plan.json"
    rng = np.random.default_rng(options.seed)
    if not path.exists():
        ensure_sound(dataset, stage("checking"))
        hardware = CPU if device.type == "cpu" else GPU
        fingerprint = take_fingerprint(dataset, rng, stage("measuring"))
        _write_json(make_plan(fingerprint, hardware, overrides).to_json(), path)
    plan = Plan.from_json(json.loads(path.read_text()))
    PatchStore(work / "cases").fill(dataset, plan, rng, stage("preparing"))
    return plan


def _assemble(
    name: str,
    dataset: Dataset,
    work: Path,
    plan: Plan,
    held_out: list[list[str]],
    facts: list[dict[str, Any]],
) -> Path:
    staging = work / ".ensemble"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    members = [f"member_{member}.pt" for member in range(len(facts))]
    for file in members:
        shutil.copyfile(work / file, staging / file)
    training = {
        "dataset": dataset.name,
        "cases": len(dataset.cases),
        "torch": str(torch.__version__),
        "members": facts,
    }
    write_description(
        staging,
        {
            "kind": "dynunet",
            "name": name,
            "classes": list(dataset.classes),
            "channels": list(dataset.channels),
            "plan": {**plan.to_json(), "held_out": held_out, "training": training},
            "members": members,
            "calibration": calibration_to_json(Calibration()),
        },
    )
    staging.rename(work / "ensemble")
    return work / "ensemble"


def _session(
    name: str, dataset: Dataset, options: TrainingOptions, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What must stay the same for a training to go on."""
    files = sha256()
    for case in dataset.cases:
        for path in (*case.channels, case.label):
            size, changed = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (0, 0)
            files.update(f"{case.id} {path.name} {size} {changed}\n".encode())
    chosen = asdict(options)
    for free in ("device", "precision", "threads", "checkpoint_every_s"):
        chosen.pop(free)
    session = {
        "name": name,
        "classes": dataset.classes,
        "channels": dataset.channels,
        "cases": len(dataset.cases),
        "files": files.hexdigest(),
        **chosen,
        "plan": dict(overrides),
    }
    return json.loads(json.dumps(session, default=asdict))


def _open_session(work: Path, session: dict[str, Any], *, restart: bool) -> None:
    path = work / "session.json"
    if restart and path.exists():
        shutil.rmtree(work)
    if not path.exists():
        if work.exists() and any(work.iterdir()):
            raise BadInputError(f"{work} is not empty and holds no training; give a folder of its own")
        work.mkdir(parents=True, exist_ok=True)
        _write_json(session, path)
        return
    before = json.loads(path.read_text())
    changed = sorted(key for key in session.keys() | before.keys() if session.get(key) != before.get(key))
    if changed:
        what = "; ".join(f"{key}: {before.get(key)} before, {session.get(key)} now" for key in changed)
        raise BadInputError(
            f"{work} holds a training of something else ({what}); go on with the same, or start over with restart"
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed(seed: int, member: int, what: int | str) -> int:
    """Independent random streams by what they are for."""
    return int.from_bytes(sha256(f"{seed} {member} {what}".encode()).digest()[:8], "big") >> 1


def _member_file(work: Path, member: int, suffix: str) -> Path:
    return work / f"member_{member}.{suffix}"


def _save_whole(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    torch.save(state, temporary)
    temporary.replace(path)


def _write_json(values: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)
