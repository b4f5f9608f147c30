"""From a MedUHIP champion and a training set to a challenger, through any number of interruptions.

The work folder is that of `retraining`, with one network in the place of the members:

    cases/<plan>/cases/     prepared cases with every rater's label (see `rated_store`)
    model.checkpoint.pt     in progress

What several people accepted is learnt as several opinions; what one did, as the pseudo-raters of the first training
would have drawn it, so that a component goes on meaning the style that it meant.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import DivergedError
from overread.ensemble.plan import Plan
from overread.ensemble.storage import DESCRIPTION, read_description, write_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.imaging.dataset import Case, ensure_sound
from overread.imaging.volumes import Volume, read_label_of, read_volume
from overread.learning.options import RetrainingOptions
from overread.learning.retraining import (
    KEY_LENGTH,
    Report,
    describe,
    digest,
    file_hashes,
    folder_of,
    forget_members,
    open_retraining,
    retraining_session,
)
from overread.learning.training_set import TrainingSet, ensure_retrainable
from overread.meduhip.lessons import pseudo_labels
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.storage import load_reader, save_model
from overread.meduhip.training import MedUHIPOptions, MedUHIPProgress, train_meduhip, usual_rate
from overread.raters.pseudo import Style

logger = logging.getLogger(__name__)


def reteach(
    champion: Path,
    cases: TrainingSet,
    work: Path,
    options: RetrainingOptions,
    progress: Report | None = None,
    stop: Event | None = None,
) -> Path:
    """Train a challenger with the champion's plan and styles; otherwise as `retrain`.

    Accepted cases with voxels that nobody labelled are left out, with a warning in the log.

    Args:
        champion: folder of a MedUHIP model.

    Raises:
        BrokenDatasetError: cases cannot be trained on. BadInputError: the champion cannot be retrained, or there is
            nothing to learn or judge.
        StoppedError: `stop` was set. DivergedError: numbers were not finite; the network is forgotten.
    """
    description = read_description(champion)
    ensure_retrainable(description)
    _ensure_judged(description["name"], cases)
    if options.adabn or options.apart or options.pseudo_share:
        raise BadInputError(
            "the batch statistics of a MedUHIP model are not adapted; retrain it without adabn, apart and pseudo-labels"
        )
    configuration = Configuration(**description["plan"]["meduhip"])
    if options.start == "scratch" and (configuration.freeze_encoder or configuration.size == "vit_b"):
        raise BadInputError(
            f"model {description['name']} began with weights of SAM, which are not kept: retrain it with start "
            "champion, or from the beginning with `overread train`"
        )
    plan, styles, work = Plan.from_json(description["plan"]), _styles(description), Path(work)

    def stage(name: Literal["checking", "preparing"]) -> Callable[[int, int], None]:
        def heard(done: int, of: int) -> None:
            if stop is not None and stop.is_set():
                raise StoppedError("the training was stopped while it read the cases; nothing is lost")
            if progress is not None:
                progress(TrainingProgress(name, 0, 1, done / of))

        return heard

    files = file_hashes(cases, stage("checking"))
    open_retraining(work, retraining_session(description["identity"], cases, files, options))
    finished = work / "ensemble"
    if (finished / DESCRIPTION).exists():
        return finished
    keys = {case: f"{case}.{digest([entry, _told(styles)])[:KEY_LENGTH]}" for case, entry in files.items()}
    prepared = _prepare(cases, keys, plan, styles, work / "cases", stage("preparing"))
    store = RatedStore(prepared / "cases")
    learnt = {case for case in cases.learnt_by(0, cases.local | cases.central) if store.holds(keys[case])}
    last = MedUHIPProgress(0.0, 0, None, None)

    def heard(now: MedUHIPProgress) -> None:
        nonlocal last
        last = now
        if progress is not None:
            progress(TrainingProgress("training", 0, 1, now.share, now.iteration, now.loss, now.seconds_left))

    try:
        model = train_meduhip(
            work,
            _lesson(cases, learnt, keys, options),
            plan,
            configuration,
            _training_options(options, configuration),
            heard,
            stop,
            start=load_reader(champion).model if options.start == "champion" else None,
            prepared=prepared,
        )
    except DivergedError:
        # Going on from the last checkpoint would end the same way.
        forget_members(work)
        raise
    facts = {"iterations": last.iteration, "loss": last.loss, "pseudo_raters": _told(styles)}
    return _saved(model, description, plan, cases, files, facts, options, work)


def _ensure_judged(name: str, cases: TrainingSet) -> None:
    """One network learns from every case that is not protected: without those nobody could judge it."""
    if not cases.local & cases.protected:
        raise BadInputError(
            f"{name} is not trained: it is one network, which only labels of the control arm can judge, and none is "
            "accepted yet; cases of the control arm come by themselves among those that the queue serves"
        )


def _styles(description: Mapping[str, Any]) -> tuple[Style, ...]:
    told = description["plan"]["training"].get("pseudo_raters")
    if not told:
        raise BadInputError(
            f"model {description['name']} learnt from images that several people labelled, and knows no style in which "
            "one person's label becomes several; train it again with `overread train` when there are more of theirs"
        )
    return tuple(Style(**style) for style in told)


def _told(styles: Sequence[Style]) -> list[dict[str, Any]]:
    return [asdict(style) for style in styles]


def _prepare(
    cases: TrainingSet,
    keys: Mapping[str, str],
    plan: Plan,
    styles: Sequence[Style],
    folder: Path,
    heard: Callable[[int, int], None],
) -> Path:
    """Prepare what is learnt from and is not there yet; what nobody needs any more is deleted."""
    here = folder_of(plan, folder)
    store = RatedStore(here / "cases")
    learnt = [case for case in cases.dataset.cases if case.id not in cases.protected]
    store.keep([keys[case.id] for case in learnt])
    for index, case in enumerate(learnt):
        key = keys[case.id]
        if not store.holds(key):
            ensure_sound(replace(cases.dataset, cases=(case,), announced=1), accepted=case.id in cases.local)
            volume = read_volume(case.channels)
            labels = _opinions(case, volume, cases.ratings.get(case.id, ()), styles, plan.classes)
            if labels is None:
                logger.warning("case %s has voxels that nobody labelled; it is not trained on", case.id)
            else:
                # By content, so that the places are the same whatever else is prepared.
                store.add_rated(key, volume, labels, plan, np.random.default_rng(list(key.encode())))
        heard(index + 1, len(learnt))
    return here


def _opinions(
    case: Case, volume: Volume, ratings: Sequence[Path], styles: Sequence[Style], classes: int
) -> np.ndarray | None:
    """What several raters or pseudo-raters say, `(rater, *space)`; None where nobody labelled the case fully."""
    read = [read_label_of(path, volume.grid) for path in (ratings or (case.label,))]
    complete = [label for label in read if not (label == IGNORE).any()]
    if not complete:
        return None
    if len(complete) > 1:
        return np.stack(complete)
    return pseudo_labels(complete[0], volume.grid.spacing_mm, styles, classes)


def _lesson(
    cases: TrainingSet, learnt: set[str], keys: Mapping[str, str], options: RetrainingOptions
) -> Lesson:
    """Central and accepted cases in their shares."""
    if not learnt & cases.local:
        raise BadInputError("no accepted case is labelled fully; MedUHIP learns from no other")
    shares = (cases.central, options.replay_share), (cases.local, 1 - options.replay_share)
    pools = [Pool(tuple(keys[case] for case in sorted(learnt & ids)), share) for ids, share in shares]
    return Lesson(tuple(pool for pool in pools if pool.cases and pool.share > 0))


def _training_options(options: RetrainingOptions, configuration: Configuration) -> MedUHIPOptions:
    budget, fresh = options.budget(1), MedUHIPOptions()
    goes_on = options.start == "champion"
    return replace(
        fresh,
        iterations=budget.iterations,
        minutes=budget.minutes,
        # Who goes on knows masks already.
        warm_share=0.0 if goes_on else fresh.warm_share,
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        checkpoint_every_s=options.checkpoint_every_s,
        clock=options.clock,
        learning_rate=usual_rate(configuration) * (options.rate_factor if goes_on else 1),
    )


def _saved(
    model: MedUHIP,
    champion: Mapping[str, Any],
    plan: Plan,
    cases: TrainingSet,
    files: Mapping[str, Any],
    facts: Mapping[str, Any],
    options: RetrainingOptions,
    work: Path,
) -> Path:
    """The finished challenger, not calibrated yet; appears complete or not at all."""
    staging = work / ".ensemble"
    shutil.rmtree(staging, ignore_errors=True)
    names = {name: champion[name] for name in ("name", "classes", "channels")}
    save_model(staging, model, plan, **names, training={})
    written = read_description(staging)
    described = describe(champion, written["plan"], cases, files, facts, options)
    described["plan"]["training"]["held_out"] = described["plan"]["held_out"][0]
    write_description(staging, {**written, **described})
    staging.rename(work / "ensemble")
    return work / "ensemble"
