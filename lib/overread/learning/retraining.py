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
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch

from overread.domain import BadInputError
from overread.ensemble.adabn import BATCHES, adapt_member, adaptable_plan
from overread.ensemble.compute import choose_device
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import DivergedError, write_json
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Plan
from overread.ensemble.storage import DESCRIPTION, read_description
from overread.ensemble.training import (
    StoppedError,
    TrainingProgress,
    assemble,
    train_members,
)
from overread.imaging.dataset import Case, ensure_sound
from overread.learning.central import files_of, sha256_of
from overread.learning.lessons import lessons_of
from overread.learning.options import RetrainingOptions
from overread.learning.training_set import TrainingSet, ensure_retrainable, patient_key

# Letters of a sha256 that name a file of prepared cases.
KEY_LENGTH = 12

Report = Callable[[TrainingProgress], None]


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
        lessons = lessons_of(champion, description, plan, cases, keys, store, options)
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
