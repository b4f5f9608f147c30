"""From a folder of labelled cases to a finished MedUHIP model, through any number of interruptions.

The work folder is that of `training`; the network's weights are in none but the last of these until it is complete:

    session.json, plan.json, cases/, model.checkpoint.pt, ensemble/
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import torch

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble import plan as ensemble_plan
from overread.ensemble.compute import choose_device
from overread.ensemble.fingerprint import fingerprint_of
from overread.ensemble.member_training import write_json
from overread.ensemble.plan import Hardware, Plan, make_plan
from overread.ensemble.storage import DESCRIPTION
from overread.ensemble.training import Report, TrainingProgress, hold_out_share, open_session
from overread.meduhip.configuration import AXES, SAM, Configuration
from overread.meduhip.episode import EpisodeOptions
from overread.meduhip.lessons import Lessons
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.storage import save_model
from overread.meduhip.training import (
    MedUHIPOptions,
    MedUHIPProgress,
    checkpoint_of,
    train_meduhip,
    usual_rate,
)

# An episode answers several times, with many samples: patches are smaller than those of an ensemble's members.
CPU = replace(ensemble_plan.CPU, patch={2: 128**2, 3: 48**3}, batch={2: 4 * 128**2, 3: 2 * 48**3})
GPU = replace(ensemble_plan.GPU, patch={2: 256**2, 3: 96**3}, batch={2: 12 * 256**2, 3: 2 * 96**3})
BACKENDS = {2: "unet2d", 3: "unet3d"}
# Pictures a step of the backend `sam`, which sees each at its own size, and so is shown patches of that size.
SAM_BATCH = 4
# Of the cases, kept from training where nothing else is said.
VALIDATION_SHARE = 0.2
# Decided by the data.
FROM_DATA = ("channels", "structures")


@dataclass(frozen=True)
class Wishes:
    """What a recipe wants other than the defaults.

    Attributes:
        network: fields of `Configuration`.
        options: how to train.
    """

    network: Mapping[str, Any]
    options: MedUHIPOptions

    @classmethod
    def of(cls, said: Mapping[str, Any], beside: Path | None = None, **options: Any) -> Wishes:
        """Sort a recipe's `meduhip` into network and training.

        Where weights are read, the image encoder stays as it was unless `freeze_encoder` says otherwise: a few dozen
        cases teach it less than they make it forget.

        Args:
            said: fields of `Configuration` and of `MedUHIPOptions`; `episode` holds fields of `EpisodeOptions`.
            beside: folder of the recipe, from where relative paths lead; None is the current folder.
            options: of this training, before the recipe's; None is no wish.

        Raises:
            BadInputError: a field that is unknown, or decided by the data, or does not fit the others.
        """
        network_fields = [field.name for field in fields(Configuration) if field.name not in FROM_DATA]
        option_fields = [field.name for field in fields(MedUHIPOptions)]
        unknown = sorted(said.keys() - {*network_fields, *option_fields})
        if unknown:
            there = ", ".join((*network_fields, *option_fields))
            raise BadInputError(f"a MedUHIP recipe has no {unknown[0]!r}; it has {there}")
        chosen = {name: value for name, value in said.items() if name in option_fields}
        chosen |= {name: value for name, value in options.items() if value is not None}
        episode = chosen.pop("episode", {})
        if isinstance(episode, Mapping):
            known = [field.name for field in fields(EpisodeOptions)]
            if strange := sorted(episode.keys() - set(known)):
                raise BadInputError(f"an episode has no {strange[0]!r}; it has {', '.join(known)}")
            episode = EpisodeOptions(**episode)
        network = {name: value for name, value in said.items() if name in network_fields}
        if chosen.get("weights") is not None:
            chosen["weights"] = str((beside or Path()) / Path(chosen["weights"]).expanduser())
            if network.get("backend") != SAM:
                raise BadInputError(
                    f"weights are {chosen['weights']}, which only the backend {SAM} begins with; say backend: {SAM}"
                )
            network.setdefault("freeze_encoder", True)
        elif network.get("freeze_encoder") is True:
            raise BadInputError(
                "freeze_encoder without weights would keep an image encoder that knows nothing"
            )
        chosen.setdefault("learning_rate", usual_rate(Configuration(**network)))
        return cls(network, MedUHIPOptions(**chosen, episode=episode))


def teach(
    name: str,
    lessons: Lessons,
    work: Path,
    wishes: Wishes,
    *,
    validation_share: float = VALIDATION_SHARE,
    plan_overrides: Mapping[str, Any] | None = None,
    progress: Report | None = None,
    restart: bool = False,
    stop: Event | None = None,
) -> Path:
    """Train a MedUHIP model; given the same work folder again, go on.

    Args:
        name: of the recipe.
        lessons: the cases.
        work: keeps everything.
        wishes: what is other than the defaults. Changing it in mid-training needs `restart`.
        validation_share: of the cases that are kept from training, by patient, to calibrate on.
        plan_overrides: fields of `Plan`.
        progress: hears where the training stands.
        restart: forget what is in `work`.
        stop: ends the training at its next step once it is set.

    Returns:
        Folder of the finished model, below `work`, not calibrated yet.

    Raises:
        BrokenDatasetError: cases cannot be trained on; nothing was trained.
        BadInputError: wishes do not fit, or the work folder holds another training.
        NotFoundError: the weights to begin with are not there.
        StoppedError: `stop` was set.
    """
    if not 0 <= validation_share < 1:
        raise BadInputError(f"validation_share is {validation_share}, expected 0 to below 1")
    if len(lessons.classes) > IGNORE:
        raise BadInputError(f"{len(lessons.classes)} classes do not fit 8 bits; at most {IGNORE} are trained")
    report: Report = progress or (lambda _: None)
    work, overrides = Path(work), plan_overrides or {}
    unseen = hold_out_share(lessons.patients, validation_share, wishes.options.seed)
    session = _session(name, lessons, wishes, validation_share, overrides)
    open_session(work, session, restart=restart)
    finished = work / "ensemble"
    if (finished / DESCRIPTION).exists():
        return finished
    if wishes.network.get("backend") == SAM and not checkpoint_of(work).exists():
        from overread.meduhip.sam import ensure_begins

        # Told now, and not after all cases were prepared.
        ensure_begins(Configuration(**wishes.network), wishes.options.weights)
    plan = _prepare(lessons, work, wishes, overrides, report)
    configuration = configured(plan, lessons, wishes.network)
    cases = [case for case in sorted(lessons.patients) if case not in set(unseen)]
    last = MedUHIPProgress(0.0, 0, None, None)

    def heard(now: MedUHIPProgress) -> None:
        nonlocal last
        last = now
        report(TrainingProgress("training", 0, 1, now.share, now.iteration, now.loss, now.seconds_left))

    model = train_meduhip(work, cases, plan, configuration, wishes.options, heard, stop)
    training = {
        "dataset": lessons.name,
        "cases": len(lessons.patients),
        "held_out": unseen,
        "iterations": last.iteration,
        "loss": last.loss,
        "torch": str(torch.__version__),
        **({} if wishes.options.weights is None else {"weights": Path(wishes.options.weights).name}),
        **lessons.facts(),
    }
    staging = work / ".ensemble"
    shutil.rmtree(staging, ignore_errors=True)
    save_model(
        staging,
        model,
        plan,
        name=name,
        classes=lessons.classes,
        channels=lessons.channels,
        training=training,
    )
    staging.rename(finished)
    return finished


def configured(plan: Plan, lessons: Lessons, network: Mapping[str, Any]) -> Configuration:
    """The network for a plan. Raises BadInputError where the recipe's backend has another number of axes."""
    configuration = Configuration(
        **{
            "backend": BACKENDS[plan.axes],
            **network,
            "channels": len(lessons.channels),
            "structures": len(lessons.classes) - 1,
        }
    )
    if configuration.axes != plan.axes:
        fitting = ", ".join(name for name, axes in AXES.items() if axes == plan.axes)
        raise BadInputError(
            f"backend {configuration.backend} is for {configuration.axes}-D images, these are {plan.axes}-D; "
            f"use {fitting}"
        )
    return configuration


def _prepare(
    lessons: Lessons, work: Path, wishes: Wishes, overrides: Mapping[str, Any], report: Report
) -> Plan:
    def stage(name: Any, done: int, of: int) -> None:
        report(TrainingProgress(name, 0, 1, done / of))

    cases, path = sorted(lessons.patients), work / "plan.json"
    seed = wishes.options.seed
    if not path.exists():
        lessons.check(lambda done, of: stage("checking", done, of))
        fingerprint = fingerprint_of(
            (lessons.judged(case) for case in cases),
            np.random.default_rng(seed),
            lessons.name,
            lessons.classes,
            lessons.channels,
            lessons.um_per_px,
            progress=lambda done: stage("measuring", done, len(cases)),
        )
        hardware = _hardware(wishes)
        plan = make_plan(fingerprint, hardware, overrides)
        configured(plan, lessons, wishes.network)
        write_json(plan.to_json(), path)
    plan = Plan.from_json(json.loads(path.read_text()))
    store = RatedStore(work / "cases")
    for index, case in enumerate(cases):
        if not store.holds(case):
            # The same places whatever was prepared before an interruption.
            rng = np.random.default_rng([seed, zlib.crc32(case.encode())])
            store.add_rated(case, *lessons.read(case), plan, rng)
        stage("preparing", index + 1, len(cases))
    return plan


def _hardware(wishes: Wishes) -> Hardware:
    usual = CPU if choose_device(wishes.options.device).type == "cpu" else GPU
    if wishes.network.get("backend") != SAM:
        return usual
    seen = cast(int, Configuration(**wishes.network).image_size) ** 2
    return replace(usual, patch={**usual.patch, 2: seen}, batch={**usual.batch, 2: SAM_BATCH * seen})


def _session(
    name: str, lessons: Lessons, wishes: Wishes, validation_share: float, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What must stay the same for a training to go on."""
    chosen = asdict(wishes.options)
    for free in ("device", "threads", "checkpoint_every_s"):
        chosen.pop(free)
    session = {
        "name": name,
        "model": "meduhip",
        "classes": lessons.classes,
        "cases": len(lessons.patients),
        "files": lessons.digest(),
        **chosen,
        "validation_share": validation_share,
        "network": dict(wishes.network),
        "plan": dict(overrides),
    }
    return json.loads(json.dumps(session, default=asdict))
