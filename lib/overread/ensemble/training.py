"""From a folder of labelled cases to a finished ensemble, through any number of interruptions.

The work folder:

    session.json       what is being trained on what; a start with something else is refused
    plan.json          the plan
    cases/             prepared cases (see `patch_store`)
    member_0.*         members, finished or in progress (see `member_training`)
    ensemble/          the finished ensemble; appears complete or not at all
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch

from overread.domain import BadInputError, OverreadError
from overread.ensemble.compute import choose_device, choose_precision
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import MemberTraining, Optimiser, check_optimiser, write_json
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import CPU, GPU, Plan, make_plan
from overread.ensemble.storage import DESCRIPTION, calibration_to_json, write_description
from overread.ensemble.turns import train_in_turns
from overread.imaging.dataset import Dataset, ensure_sound
from overread.uncertainty.calibration import Calibration

# Steps per member where neither steps nor minutes are given.
DEFAULT_ITERATIONS = {"cpu": 2_000, "cuda": 50_000}
# On the CPU members take turns of this many seconds, so that they advance evenly and no core idles at the end.
TURN_S = 10.0
FEWEST_CASES_TO_HOLD_OUT = 4

Stage = Literal["checking", "measuring", "preparing", "training"]


class StoppedError(OverreadError):
    """A training was asked to stop; what it did is kept, and the same call goes on from there."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        members: number of networks.
        scheme: `deep`: all members see the same cases in other orders from other starts (Lakshminarayanan et al. 2017,
            arXiv:1612.01474); `folds`: each leaves out its part of a cross-validation.
        iterations: steps per member; None leaves it to `minutes`, or to `DEFAULT_ITERATIONS` without those.
        minutes: time by the clock for all members together; counts training steps only, also over interruptions.
            Where `iterations` is given too, what ends first ends the member.
        seed: of everything random.
        validation_share: for `deep`: share of the cases that no member sees; they calibrate the ensemble.
        device, precision: see `compute`.
        threads: cores to use, None for all. On the CPU each trains a member of its own: several that share the steps
            of one member wait for each other, much so on a busy machine. With a GPU they make batches ahead.
        optimiser: `adamw`, which learns fast within few steps, or `sgd`, nnU-Net's, for long trainings; `auto` takes
            `adamw` on the CPU, where trainings are short, and `sgd` on a GPU.
        checkpoint_every_s: most seconds of training that an interruption can cost.
        clock: what `minutes` are measured by; `processor` (computing time, summed over the cores) is for comparing
            trainings on a busy machine, and holds each member to one core.
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
    optimiser: Optimiser = "auto"

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
        if self.clock not in ("wall", "processor"):
            raise BadInputError(f"clock {self.clock!r} is not known; use wall or processor")
        check_optimiser(self.optimiser)
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
        training_dice: running hard Dice of what the members say about the patches they learn from, mean over the
            members that have one; None before the first. Higher than on cases they have not seen.
    """

    stage: Stage
    member: int
    members: int
    share: float
    iteration: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    training_dice: float | None = None


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
    choose_precision(options.precision, device)
    open_session(work, _session(name, dataset, options, plan_overrides or {}), restart=restart)
    finished = work / "ensemble"
    if (finished / DESCRIPTION).exists():
        return finished
    plan = _prepare_cases(dataset, work, device, options, plan_overrides or {}, report)
    lessons = [
        Lesson((Pool(tuple(case.id for case in dataset.cases if case.id not in unseen)),))
        for unseen in held_out
    ]
    train_members(work, plan, lessons, PatchStore(work / "cases"), options, report)
    facts = [json.loads((work / f"member_{index}.json").read_text()) for index in range(options.members)]
    training = {
        "dataset": dataset.name,
        "cases": len(dataset.cases),
        "torch": str(torch.__version__),
        "members": facts,
    }
    return assemble(
        work,
        {
            "kind": "dynunet",
            "name": name,
            "classes": list(dataset.classes),
            "channels": list(dataset.channels),
            "plan": {**plan.to_json(), "held_out": held_out, "training": training},
            **({} if dataset.colours is None else {"colours": dataset.colours}),
        },
        options.members,
    )


def hold_out(dataset: Dataset, options: TrainingOptions) -> list[list[str]]:
    """Ids of the cases that each member does not see; patients are held out as a whole.

    Raises:
        BadInputError: there are too few cases, or too few patients.
    """
    patients = {case.id: dataset.patient_of(case.id) for case in dataset.cases}
    if options.scheme == "deep":
        return [hold_out_share(patients, options.validation_share, options.seed)] * options.members
    groups = _shuffled_patients(patients, options.seed)
    if len(groups) < options.members:
        raise BadInputError(
            f"{options.members} folds need as many {'patients' if dataset.patients else 'cases'}, "
            f"dataset {dataset.name} has {len(groups)}"
        )
    return [sorted(chain(*groups[member :: options.members])) for member in range(options.members)]


def hold_out_share(patients: Mapping[str, str], share: float, seed: int) -> list[str]:
    """Ids of the cases to keep from training, by whole patients.

    Args:
        patients: by case.
        share: of the cases; about.
        seed: the same gives the same.
    """
    count = round(share * len(patients))
    if share > 0 and len(patients) >= FEWEST_CASES_TO_HOLD_OUT:
        count = max(1, count)
    unseen: list[str] = []
    # The last patient stays for training, whatever the share.
    for group in _shuffled_patients(patients, seed)[:-1]:
        if len(unseen) < count:
            unseen += group
    return sorted(unseen)


def _shuffled_patients(patients: Mapping[str, str], seed: int) -> list[list[str]]:
    """The cases of each patient, patients in random order."""
    groups: dict[str, list[str]] = {}
    for case, patient in patients.items():
        groups.setdefault(patient, []).append(case)
    names = sorted(groups)
    return [groups[names[i]] for i in np.random.default_rng(seed).permutation(len(names))]


def train_members(
    work: Path,
    plan: Plan,
    lessons: Sequence[Lesson],
    store: PatchStore,
    options: TrainingOptions,
    report: Report,
    stop: Event | None = None,
) -> None:
    """Train what is not finished; on the CPU several members at once, each on cores of its own.

    Args:
        work: for the members' files (see `MemberTraining`).
        plan: of all members.
        lessons: one a member.
        store: holds the lessons' cases.
        options: budget, seed and hardware; `members` is the number of lessons.
        report: hears where the training stands, about once a second.
        stop: ends the training at the next step once it is set.

    Raises:
        StoppedError: `stop` was set before the end. OverreadError: a loss was not finite.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    cores = (options.threads or os.cpu_count() or 1) if device.type == "cpu" else 1
    at_once = min(cores, options.members)
    by_clock = options.clock == "wall"
    budget_s = None
    if options.minutes:
        budget_s = options.minutes * 60 * (at_once if by_clock else 1) / options.members
    most = options.iterations
    if most is None and budget_s is None:
        most = DEFAULT_ITERATIONS[device.type]
    shares = [1.0 if (work / f"member_{index}.json").exists() else 0.0 for index in range(options.members)]
    dices: list[float | None] = [None] * options.members
    began, told, share_then = time.monotonic(), 0.0, float(np.mean(shares))

    def begin(index: int) -> MemberTraining:
        nonlocal share_then
        member = MemberTraining(
            index,
            plan,
            lessons[index],
            store,
            work,
            seed=options.seed,
            most_iterations=most,
            budget_s=budget_s,
            checkpoint_every_s=options.checkpoint_every_s,
            device=device,
            precision=precision,
            clock=time.monotonic if by_clock else time.thread_time,
            optimiser=options.optimiser,
            loaders=options.threads,
        )
        share_then += member.share / options.members
        return member

    def heard(member: MemberTraining) -> None:
        nonlocal told
        shares[member.index], dices[member.index] = member.share, member.dice
        now, share = time.monotonic(), float(np.mean(shares))
        if now - told < 1 and share < 1:
            return
        told = now
        gained = share - share_then
        left = (now - began) * (1 - share) / gained if gained > 0 else None
        known = [dice for dice in dices if dice is not None]
        dice = float(np.mean(known)) if known else None
        report(
            TrainingProgress(
                "training", member.index, options.members, share, member.iteration, member.loss, left, dice
            )
        )

    train_in_turns(
        shares,
        begin,
        heard,
        at_once=at_once,
        threads_each=max(1, cores // at_once) if by_clock else 1,
        turn_s=TURN_S if device.type == "cpu" else float("inf"),
        asked_to_stop=stop,
    )
    if not all((work / f"member_{index}.json").exists() for index in range(options.members)):
        raise StoppedError(
            f"the training was stopped after {np.mean(shares):.0%} of it; started again, it goes on from there"
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
        write_json(make_plan(fingerprint, hardware, overrides).to_json(), path)
    plan = Plan.from_json(json.loads(path.read_text()))
    PatchStore(work / "cases").fill(dataset, plan, rng, stage("preparing"))
    return plan


def assemble(
    work: Path,
    description: dict[str, Any],
    members: int,
    finish: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Put finished members below `work` together, not calibrated yet. The folder appears complete or not at all.

    Args:
        work: holds `member_0.pt` and so on.
        description: `kind`, `name`, `classes`, `channels`, `plan`, and what else the identity is to cover.
        members: how many there are.
        finish: changes copies of the members' files in the folder that it is given.

    Returns:
        `work/ensemble`.
    """
    staging = work / ".ensemble"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    files = [f"member_{member}.pt" for member in range(members)]
    for file in files:
        shutil.copyfile(work / file, staging / file)
    finish(staging)
    calibration = calibration_to_json(Calibration())
    write_description(staging, {**description, "members": files, "calibration": calibration})
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


def open_session(work: Path, session: dict[str, Any], *, restart: bool) -> None:
    """Begin or go on with a training in a work folder.

    Args:
        session: plain JSON; what must stay the same for the training to go on.
        restart: forget what is in the folder.

    Raises:
        BadInputError: the folder holds another training, or other things.
    """
    path = work / "session.json"
    if restart and path.exists():
        shutil.rmtree(work)
    if not path.exists():
        if work.exists() and any(work.iterdir()):
            raise BadInputError(f"{work} is not empty and holds no training; give a folder of its own")
        work.mkdir(parents=True, exist_ok=True)
        write_json(session, path)
        return
    before = json.loads(path.read_text())
    changed = sorted(key for key in session.keys() | before.keys() if session.get(key) != before.get(key))
    if changed:
        what = "; ".join(f"{key}: {before.get(key)} before, {session.get(key)} now" for key in changed)
        raise BadInputError(
            f"{work} holds a training of something else ({what}); go on with the same, or start over with restart"
        )
