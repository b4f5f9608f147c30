"""From a champion and a training set to a challenger, through any number of interruptions.

The work folder, which is best kept from one retraining to the next (prepared cases are then used again):

    session.json            what is being trained on what; with something else, members start over
    cases/<plan>/           prepared cases, named by case and content (see `patch_store`)
    member_0.*              members, finished or in progress (see `member_training`)
    ensemble/               the challenger; appears complete or not at all
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch

from overread.domain import BadInputError
from overread.ensemble.adabn import BATCHES, adapt_member, adaptable_plan
from overread.ensemble.compute import choose_device
from overread.ensemble.lesson import Lesson, Pool, Restaining
from overread.ensemble.member_training import DivergedError, Optimiser, write_json
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Plan
from overread.ensemble.storage import DESCRIPTION, read_description
from overread.ensemble.training import (
    StoppedError,
    TrainingOptions,
    TrainingProgress,
    assemble,
    train_members,
)
from overread.imaging.dataset import Case, ensure_sound
from overread.learning.central import files_of, sha256_of
from overread.learning.training_set import TrainingSet, ensure_retrainable, patient_key

# Where neither steps nor minutes are given and members go on from the champion: all members together on the CPU, so
# that whoever clicks on Train sees the end of it; steps of each member on a GPU.
DEFAULT_MINUTES_CPU = 4.0
DEFAULT_ITERATIONS_GPU = 1_000
# Letters of a sha256 that name a file of prepared cases.
KEY_LENGTH = 12

Report = Callable[[TrainingProgress], None]


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
        restained: share of the central patches that are shown in the colours of an accepted picture: where only one
            class was accepted of a place, its colours would stand for that class. RGB pictures only.
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
        for name in ("restained", "pseudo_share"):
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


def retrain(
    champion: Path,
    cases: TrainingSet,
    work: Path,
    options: RetrainingOptions,
    progress: Report | None = None,
    stop: Event | None = None,
) -> Path:
    """Train a challenger with the champion's plan.

    The champion's folder is only read. What was done before an interruption counts, as long as champion, cases and
    options are the same; otherwise members start over.

    Args:
        champion: folder of an ensemble of kind `dynunet`.
        cases: from `training_set` with the same champion.
        work: keeps everything.
        options: how.
        progress: hears where the training stands, about once a second.
        stop: ends the training at the next step, or after the case that is being prepared, once it is set.

    Returns:
        Folder of the challenger, below `work`; not calibrated: `calibrate(folder, cases.dataset)` does that.

    Raises:
        BrokenDatasetError: cases cannot be trained on. BadInputError: the champion cannot be retrained.
        StoppedError: `stop` was set. DivergedError: numbers were not finite; the members are forgotten.
    """
    description = read_description(champion)
    ensure_retrainable(description)
    plan, members = Plan.from_json(description["plan"]), len(description["members"])
    if options.adabn or options.apart:
        adaptable_plan(description)
    work = Path(work)

    def stage(name: Literal["checking", "preparing"]) -> Callable[[int, int], None]:
        def heard(done: int, of: int) -> None:
            if stop is not None and stop.is_set():
                raise StoppedError("the training was stopped while it read the cases; nothing is lost")
            if progress is not None:
                progress(TrainingProgress(name, 0, members, done / of))

        return heard

    files = file_hashes(cases, stage("checking"))
    session = retraining_session(description["identity"], cases, files, options)
    open_retraining(work, session)
    finished = work / "ensemble"
    if (finished / DESCRIPTION).exists():
        return finished
    keys = {case: f"{case}.{digest(entry)[:KEY_LENGTH]}" for case, entry in files.items()}
    store = _prepare(cases, keys, plan, work / "cases", stage("preparing"))
    try:
        lessons = _lessons(champion, description, plan, cases, keys, options)
        train_members(work, plan, lessons, store, options.budget(members), progress or (lambda _: None), stop)
    except DivergedError:
        # Going on from the last checkpoint would end the same way.
        forget_members(work)
        raise

    def finish(folder: Path) -> None:
        if options.adabn:
            _adapt(folder, description["members"], plan, cases, keys, store, options)

    facts = {
        "members": [json.loads((work / f"member_{member}.json").read_text()) for member in range(members)]
    }
    described = describe(description, plan.to_json(), cases, files, facts, options)
    return assemble(work, described, members, finish)


def _adapt(
    folder: Path,
    files: Sequence[str],
    plan: Plan,
    cases: TrainingSet,
    keys: Mapping[str, str],
    store: PatchStore,
    options: RetrainingOptions,
) -> None:
    """Each member gets the statistics of the local cases that it learnt from; of the others it sees nothing."""
    device = choose_device(options.device)
    for member, file in enumerate(files):
        learnt = cases.learnt_by(member, cases.local)
        if not learnt:
            continue
        batches = _batches(store, [keys[case] for case in learnt], plan, options.seed)
        adapt_member(plan, folder / file, batches, device)


def _batches(store: PatchStore, cases: Sequence[str], plan: Plan, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lesson = Lesson((Pool(tuple(cases)),))
    for _ in range(BATCHES):
        windows = [
            store.sample(lesson.draw(generator), plan.patch, generator, on_foreground=False)[0]
            for _ in range(plan.batch)
        ]
        yield torch.stack(windows)


def _lessons(
    champion: Path,
    description: Mapping[str, Any],
    plan: Plan,
    cases: TrainingSet,
    keys: Mapping[str, str],
    options: RetrainingOptions,
) -> list[Lesson]:
    lessons = []
    for member, file in enumerate(description["members"]):
        central, local = (cases.learnt_by(member, ids) for ids in (cases.central, cases.local))
        pools = [_pool(central, options.replay_share, keys)]
        pseudo = sorted(cases.unlabelled) if options.pseudo_share else []
        pseudo_share = options.pseudo_share if local else 1.0
        left = 1 - options.replay_share
        if pseudo:
            pools.append(_pool(pseudo, left * pseudo_share, keys))
            left *= 1 - pseudo_share
        share = left / max(1, len(local))
        for labelled, beside in _places(local, cases) if options.apart else [(local, [])]:
            pools.append(_pool([*labelled, *beside], share * len(labelled), keys))
        given = tuple(pool for pool in pools if pool.cases and pool.share > 0)
        lesson = Lesson(given, apart=options.apart)
        if options.start == "champion":
            lesson = replace(lesson, start=champion / file, rate_factor=options.rate_factor)
        if options.restained and local and plan.is_rgb:
            like = tuple(keys[case] for case in local)
            colours = Restaining(frozenset(keys[case] for case in central), like, options.restained)
            lesson = replace(lesson, restaining=colours)
        lessons.append(lesson)
    return lessons


def _pool(cases: Sequence[str], share: float, keys: Mapping[str, str]) -> Pool:
    return Pool(tuple(keys[case] for case in cases), share)


def _places(local: Sequence[str], cases: TrainingSet) -> list[tuple[list[str], list[str]]]:
    """Labelled cases centre by centre, with its unlabelled ones; those of which no centre is known are one more."""
    labelled: dict[str, list[str]] = {}
    for case in local:
        labelled.setdefault(cases.centres.get(case, ""), []).append(case)
    return [
        (labelled[centre], sorted(case for case in cases.unlabelled if cases.centres[case] == centre))
        for centre in sorted(labelled)
    ]


def _prepare(
    cases: TrainingSet,
    keys: Mapping[str, str],
    plan: Plan,
    folder: Path,
    heard: Callable[[int, int], None],
) -> PatchStore:
    """Prepare what a member learns from and is not there yet; what nobody needs any more is deleted."""
    here = folder_of(plan, folder)
    store = PatchStore(here)
    learnt = [case for case in cases.dataset.cases if case.id not in cases.protected]
    store.keep([keys[case.id] for case in learnt])
    for index, case in enumerate(learnt):
        key = keys[case.id]
        if not store.holds(key):
            alone = replace(cases.dataset, cases=(case,), announced=1)
            if case.id not in cases.unlabelled:
                ensure_sound(alone, accepted=case.id in cases.local)
            renamed = replace(alone, cases=(replace(case, id=key),))
            # By content, so that the places are the same whatever else is prepared.
            store.fill(renamed, plan, np.random.default_rng(list(key.encode())))
        heard(index + 1, len(learnt))
    return store


def describe(
    champion: Mapping[str, Any],
    plan: Mapping[str, Any],
    cases: TrainingSet,
    files: Mapping[str, Any],
    facts: Mapping[str, Any],
    options: RetrainingOptions,
) -> dict[str, Any]:
    """What a challenger's folder says of it: whose child it is, what it learnt from, and what it has never seen.

    Args:
        champion: description of its parent.
        plan: what it was trained with.
        files: from `file_hashes`.
        facts: further ones of the training.
    """
    members = range(len(champion["plan"]["held_out"]))
    before = champion["plan"].get("learnt", [[]] * len(members))
    learnt = []
    for member in members:
        now = {patient_key(cases.patients[case]) for case in cases.learnt_by(member, cases.local)}
        learnt.append(sorted(now.union(before[member] if options.start == "champion" else ())))
    training = {
        "dataset": cases.dataset.name,
        "cases": len(cases.dataset.cases),
        "central": len(cases.central),
        "local": len(cases.local),
        "protected": len(cases.protected),
        "torch": str(torch.__version__),
        **facts,
    }
    held_out = [sorted(case for case, who in cases.unseen.items() if member in who) for member in members]
    return {
        "kind": champion["kind"],
        "name": champion["name"],
        "classes": champion["classes"],
        "channels": champion["channels"],
        "plan": {**plan, "held_out": held_out, "learnt": learnt, "training": training},
        "parent": champion["identity"],
        **({"colours": champion["colours"]} if "colours" in champion else {}),
        "data": {
            "central": {case: files[case] for case in sorted(cases.central)},
            "local": {case: files[case] for case in sorted(cases.local)},
        },
        "retraining": asdict(options),
    }


def file_hashes(cases: TrainingSet, heard: Callable[[int, int], None]) -> dict[str, dict[str, Any]]:
    """By case id, sha256 of `images` and `label`, and of `ratings` where several gave one."""
    found = {}
    for index, case in enumerate(cases.dataset.cases):
        found[case.id] = _case_hashes(case)
        if case.id in cases.ratings:
            found[case.id]["ratings"] = [sha256_of(path) for path in cases.ratings[case.id]]
        heard(index + 1, len(cases.dataset.cases))
    return found


def _case_hashes(case: Case) -> dict[str, Any]:
    for path in files_of(case):
        if not path.exists():
            raise BadInputError(f"{path} of case {case.id} went missing")
    return {"images": [sha256_of(path) for path in case.channels], "label": sha256_of(case.label)}


def retraining_session(
    champion: str, cases: TrainingSet, files: Mapping[str, Any], options: RetrainingOptions
) -> dict[str, Any]:
    """What must stay the same for members to go on."""
    chosen = asdict(options)
    for free in ("device", "precision", "threads", "checkpoint_every_s"):
        chosen.pop(free)
    session = {
        "champion": champion,
        "files": files,
        "local": sorted(cases.local),
        "protected": sorted(cases.protected),
        "unseen": {case: list(who) for case, who in cases.unseen.items()},
        "patients": digest(dict(cases.patients)),
        **chosen,
    }
    return json.loads(json.dumps(session))


def open_retraining(work: Path, session: dict[str, Any]) -> None:
    """Go on with the same session, or start over with another; prepared cases stay."""
    path = work / "session.json"
    try:
        same = json.loads(path.read_text()) == session
    except (OSError, ValueError):
        same = False
    if not same:
        forget_members(work)
        work.mkdir(parents=True, exist_ok=True)
        write_json(session, path)


def forget_members(work: Path) -> None:
    """Leave nothing but prepared cases. The session goes first: without it nothing else counts."""
    (work / "session.json").unlink(missing_ok=True)
    for name in ("ensemble", ".ensemble"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("member_*", ".member_*", "model.*", ".model.*"):
        for file in work.glob(name):
            file.unlink()


def folder_of(plan: Plan, folder: Path) -> Path:
    """Where cases prepared by a plan lie; those prepared by another one are deleted."""
    here = folder / digest(plan.to_json())[:KEY_LENGTH]
    for other in folder.glob("*"):
        if other != here:
            shutil.rmtree(other)
    return here


def digest(values: Any) -> str:
    """Of plain JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
