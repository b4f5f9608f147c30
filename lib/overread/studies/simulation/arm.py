"""One seed's starter, and one strategy's rounds from there: score, ask, accept, train, judge, test.

A round works on a copy of the state that the round before left (`state/`: database, accepted labels, champions) and
takes its place in one step. Whatever kills it, the next start begins that round again from the same state.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from overread.ensemble.calibrate import calibrate
from overread.ensemble.fingerprint import take_fingerprint
from overread.ensemble.plan import make_plan, target_spacing
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.ensemble.training import TrainingOptions, hold_out, train_ensemble
from overread.imaging.dataset import Case, read_dataset
from overread.imaging.volumes import read_labelmap, read_volume
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.central import read_central, remember_central
from overread.learning.champions import ChampionStore
from overread.learning.cycle import RETRAINING, CycleProgress, run_cycle
from overread.learning.gate import GateOptions
from overread.learning.options import RetrainingOptions
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, training_set
from overread.metrics.overlap import dice
from overread.queue.scoring import cold_score, revision_of, score_case
from overread.queue.serving import CaseQueue
from overread.queue.settings import QueueSettings
from overread.raters.robot import RobotRater
from overread.state.database import Database
from overread.state.labels import labels
from overread.state.scores import COLD, put_score, scores_of
from overread.studies.simulation.annotation_cost import Cost, cost_of, doubtful_box, only_inside
from overread.studies.simulation.cases import Labelled, Split, split_by_patient, split_to_json, write_raw
from overread.studies.simulation.protocol import SMALL, Study
from overread.studies.simulation.statistics import Row

# The clock of the simulation: its first day, and what passes between two rounds.
FIRST_DAY_S = 1_700_000_000.0
DAY_S = 86_400.0
ROBOT = "robot"
# Whom the starter's own scores belong to.
STARTER = "starter"
# Strategies that look at no score.
UNSCORED = ("random", "first")
# Files that are never changed once written; a copy of the state shares them.
IMMUTABLE = (".pt", ".nii.gz")
STATE = "state"
Seconds = dict[str, float]


def make_starter(study: Study, seed: int) -> None:
    """Split the cases, train the seed's first champion and let it score the pool; what is there is kept."""
    folder = study.folder / f"seed_{seed}"
    protocol, labelled = study.protocol, study.labelled()
    if (folder / STATE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    drawn = split_by_patient(
        labelled,
        np.random.default_rng(seed),
        start=protocol.start,
        protected=protocol.protected,
        test=protocol.test,
        pool=protocol.pool,
    )
    central = folder / "central"
    if not central.exists():
        write_raw(labelled, (*drawn.start, *drawn.protected), central)
    dataset = read_dataset(central)
    options = TrainingOptions(
        members=protocol.members,
        iterations=protocol.starter_iterations,
        seed=seed,
        validation_share=protocol.protected / (protocol.start + protocol.protected),
        device="cpu",
        threads=1,
    )
    # The trainer draws for itself which cases it holds out.
    held_out = tuple(hold_out(dataset, options)[0])
    learnt = tuple(sorted({*drawn.start, *drawn.protected} - {*held_out}))
    split = replace(drawn, start=learnt, protected=held_out)
    _write_whole(json.dumps(split_to_json(split), indent=1), folder / "split.json")
    fingerprint = take_fingerprint(dataset, np.random.default_rng(seed))
    decided: dict[str, Any] = {
        "spacing_mm": tuple(edge * protocol.coarser for edge in target_spacing(fingerprint))
    }
    if protocol.batch is not None:
        decided["batch"] = protocol.batch
    plan = make_plan(fingerprint, SMALL, decided).to_json()
    ensemble = train_ensemble(protocol.recipe, dataset, folder / "starter", options, plan)
    calibrate(ensemble, dataset)
    staging = folder / f".{STATE}"
    shutil.rmtree(staging, ignore_errors=True)
    store = ChampionStore(staging / "models")
    remember_central(store.recipe_folder(protocol.recipe), central, dataset, held_out)
    store.publish(protocol.recipe, ensemble)
    with _opened(staging) as database:
        _Arm(study, seed, STARTER, labelled, split, staging, database).score(1)
    staging.rename(folder / STATE)


def run_arm(study: Study, seed: int, strategy: str) -> Iterator[Row]:
    """The rounds of one strategy with one seed, one after the other; those that are there are only read."""
    folder = study.folder / f"seed_{seed}"
    arm = folder / strategy
    arm.mkdir(exist_ok=True)
    labelled = study.labelled()
    split = Split(
        **{name: tuple(ids) for name, ids in json.loads((folder / "split.json").read_text()).items()}
    )
    rows: list[Row] = []
    for number in range(study.protocol.rounds + 1):
        finished = arm / f"{number:02d}"
        if (finished / "round.json").exists():
            rows.append(Row(**json.loads((finished / "round.json").read_text())))
            yield rows[-1]
            continue
        before = arm / f"{number - 1:02d}" if number else folder
        working = arm / ".working"
        shutil.rmtree(working, ignore_errors=True)
        _copy_state(before / STATE, working / STATE)
        with _opened(working / STATE) as database:
            one = _Arm(study, seed, strategy, labelled, split, working / STATE, database)
            rows.append(one.first() if number == 0 else one.round(rows[-1], arm / "training"))
        (working / "round.json").write_text(json.dumps(asdict(rows[-1]), allow_nan=False))
        working.rename(finished)
        if number:
            shutil.rmtree(before / STATE)
        yield rows[-1]


@dataclass(eq=False)
class _Arm:
    """One strategy of one seed at work on its state."""

    study: Study
    seed: int
    strategy: str
    labelled: Labelled
    split: Split
    state: Path
    database: Database
    cases: Mapping[str, Case] = field(init=False)
    store: ChampionStore = field(init=False)
    accepted: AcceptedLabels = field(init=False)
    seconds: Seconds = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cases = {case.id: case for case in self.labelled.cases}
        self.store = ChampionStore(self.state / "models")
        self.accepted = AcceptedLabels(self.state / "accepted", self.database)

    def first(self) -> Row:
        """The starter's row: nothing was asked yet."""
        folder = self.store.current(self.study.protocol.recipe)
        test = self.judged(folder, self.split.test, "testing")
        central = self.judged(folder, self.split.protected, "testing")
        return Row(
            seed=self.seed,
            strategy=self.strategy,
            round=0,
            cases=len(self.split.start),
            labelled_mm3=0.0,
            foreground_mm3=0.0,
            foreground_voxels=0,
            minutes=0.0,
            scratch_minutes=0.0,
            **self.figures(test),
            challenger_dice=None,
            central_dice=float(np.mean(list(central.values()))),
            promoted=None,
            reason="",
            picks={},
            champion=folder.name,
            seconds=self.seconds,
        )

    def round(self, before: Row, training: Path) -> Row:
        """Score, ask, train, judge; and what came of it on the test cases."""
        number = before.round + 1
        self.score(number)
        picks, costs = self.ask(number)
        promoted, reason, challenger = self.retrain(number, training)
        folder = self.store.current(self.study.protocol.recipe)
        test = self.judged(folder, self.split.test, "testing")
        central = self.judged(folder, self.split.protected, "testing")
        other = test if promoted else self.judged(challenger, self.split.test, "testing")
        return Row(
            seed=self.seed,
            strategy=self.strategy,
            round=number,
            cases=before.cases + len(picks),
            labelled_mm3=before.labelled_mm3 + sum(cost.labelled_mm3 for cost in costs),
            foreground_mm3=before.foreground_mm3 + sum(cost.foreground_mm3 for cost in costs),
            foreground_voxels=before.foreground_voxels + sum(cost.foreground_voxels for cost in costs),
            minutes=before.minutes + sum(cost.minutes for cost in costs),
            scratch_minutes=before.scratch_minutes + sum(cost.scratch_minutes for cost in costs),
            **self.figures(test),
            challenger_dice=None
            if challenger is None
            else float(np.mean([np.mean(d) for d in other.values()])),
            central_dice=float(np.mean([np.mean(d) for d in central.values()])),
            promoted=promoted,
            reason=reason,
            picks=picks,
            champion=folder.name,
            seconds=self.seconds,
        )

    def score(self, number: int) -> None:
        """Let the champion score the waiting cases, or as many of them as the protocol says."""
        if self.strategy in UNSCORED:
            return
        protocol = self.study.protocol
        folder = self.store.current(protocol.recipe)
        asked = self.labelled_here()
        # The same cases for every strategy, as far as they wait.
        order = np.random.default_rng([self.seed, number]).permutation(len(self.split.pool))
        waiting = [self.split.pool[index] for index in order if self.split.pool[index] not in asked]
        with self.timed("scoring"):
            ensemble = load_ensemble(folder)
            with self.database.reading() as c:
                known = scores_of(c, protocol.recipe, folder.name)
                cold = scores_of(c, protocol.recipe, COLD)
            now = self.clock(number)
            rows = [
                score_case(ensemble, read_volume([image]), protocol.recipe, name, revision_of(image), now)
                for name in waiting[: protocol.scored]
                if name not in known and (image := self.image_of(name))
            ]
            # Of what was asked, only the place among the others is needed.
            rows += [
                cold_score(read_volume([image]), protocol.recipe, name, revision_of(image), now)
                for name in sorted(asked)
                if name not in cold and (image := self.image_of(name))
            ]
            with self.database.writing() as c:
                for row in rows:
                    put_score(c, row)

    def ask(self, number: int) -> tuple[dict[str, str], list[Cost]]:
        """Serve a round's cases one after the other, and accept what the robot says of each."""
        protocol = self.study.protocol
        folder = self.store.current(protocol.recipe)
        ensemble = load_ensemble(folder)
        settings = QueueSettings(
            strategy=self.strategy,
            control_share=0.0,
            batch=protocol.step,
            budget=protocol.rounds * protocol.step,
        )
        queue = CaseQueue(self.database, protocol.recipe, folder.name, ensemble.classes[1:], settings)
        robot = RobotRater(protocol.jitter_mm, protocol.missed_mm3, self.seed)
        rng = np.random.default_rng([self.seed, number, 1])
        now = self.clock(number)
        picks: dict[str, str] = {}
        costs: list[Cost] = []
        with self.timed("asking"):
            for _ in range(protocol.step):
                asked = self.labelled_here()
                patients = {name: self.labelled.patients[name] for name in self.split.pool}
                waiting = {name: patient for name, patient in patients.items() if name not in asked}
                answered = {name: patient for name, patient in patients.items() if name in asked}
                served = queue.next_case(self.strategy, ROBOT, waiting, answered, now, rng)
                if served is None:
                    break
                case = self.cases[served.serving.case_id]
                truth, grid = read_labelmap(case.label)
                prediction = predict(ensemble, read_volume(case.channels), measures=(ensemble.asked_by,))
                proposal = prediction.labels
                label = robot.label(truth, grid.spacing_mm, case.id)
                if protocol.patch_mm is not None:
                    doubt = prediction.maps[ensemble.asked_by].values.numpy()
                    label = only_inside(label, doubtful_box(doubt, grid.spacing_mm, protocol.patch_mm))
                costs.append(cost_of(label, proposal, grid.spacing_mm, protocol.costs))
                now += 60 * costs[-1].minutes
                submission = Submission(
                    case_id=case.id,
                    patient=self.labelled.patients[case.id],
                    rater=ROBOT,
                    client_id=ROBOT,
                    recipe=protocol.recipe,
                    champion=folder.name,
                    tag="final",
                    interactions=(),
                    serving=served.serving,
                    proposal=proposal,
                    classes=ensemble.classes,
                )
                self.accepted.add(label, grid, submission, now)
                picks[case.id] = served.pick.reason
        return picks, costs

    def retrain(self, number: int, training: Path) -> tuple[bool, str, Path]:
        """Train on all that was accepted and let the gate decide: promoted, why, and the challenger's folder.

        Args:
            training: outlives the round, for the prepared cases.
        """
        protocol = self.study.protocol
        options = RetrainingOptions(
            start=protocol.begin,
            iterations=protocol.iterations,
            rate_factor=protocol.rate_factor,
            replay_share=protocol.replay_share,
            seed=self.seed * 1000 + number,
            device="cpu",
            threads=1,
        )
        kept = training / "challenger"
        shutil.rmtree(kept, ignore_errors=True)
        with self.timed("training"):
            if not protocol.with_gate:
                return True, "not judged", self.promote_anyway(training, options)

            def keep(now: CycleProgress) -> None:
                # A challenger that is turned down is gone when the cycle ends; its test Dice is told all the same.
                if now.stage == "judging" and not kept.exists():
                    shutil.copytree(training / RETRAINING / "ensemble", kept)

            decision = run_cycle(
                protocol.recipe,
                self.store,
                self.accepted,
                self.database,
                training,
                options,
                GateOptions(fewest_cases=min(GateOptions().fewest_cases, protocol.step)),
                self.image_of,
                progress=keep,
            )
        return decision.promoted, decision.reason, kept

    def promote_anyway(self, training: Path, options: RetrainingOptions) -> Path:
        """Train a challenger and make it the champion; no case is spared to judge by."""
        recipe = self.study.protocol.recipe
        champion = self.store.current(recipe)
        accepted = self.accepted.cases(recipe, self.image_of, classes=self.labelled.classes)
        local = [
            LocalCase(case.id, (case.image,), case.label, case.patient, case.protected) for case in accepted
        ]
        central = read_central(self.store.recipe_folder(recipe))
        cases = training_set(champion, central, local, fewest_protected=0)
        challenger = retrain(champion, cases, training / RETRAINING, options)
        calibrate(challenger, cases.dataset)
        return self.store.publish(recipe, challenger)

    def image_of(self, case: str) -> Path:
        """The image's file, where the data lie."""
        return self.cases[case].channels[0]

    def judged(self, folder: Path, ids: tuple[str, ...], stage: str) -> dict[str, list[float]]:
        """Dice by case and class. Kept per champion beside the arms, which share the starter."""
        ensemble = load_ensemble(folder)
        found = {}
        with self.timed(stage):
            for name in ids:
                case = self.cases[name]
                truth, _ = read_labelmap(case.label)
                labels = predict(ensemble, read_volume(case.channels), measures=()).labels
                found[name] = dice(labels, truth, len(ensemble.classes), both_empty=1.0).tolist()
        return found

    def figures(self, test: Mapping[str, list[float]]) -> dict[str, Any]:
        """What a row says of the test cases."""
        by_class = np.mean(list(test.values()), axis=0)
        return {
            "test_dice": float(by_class.mean()),
            "class_dice": dict(zip(self.labelled.classes[1:], by_class.tolist(), strict=True)),
            "case_dice": {name: float(np.mean(values)) for name, values in test.items()},
        }

    def labelled_here(self) -> set[str]:
        """Cases with an accepted label."""
        with self.database.reading() as c:
            return {row.case_id for row in labels(c, self.study.protocol.recipe)}

    def clock(self, number: int) -> float:
        """When a round begins, by the simulation's own calendar."""
        return FIRST_DAY_S + number * DAY_S

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the processor's seconds to those of a stage: a busy machine does not change them."""
        began = time.process_time()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.process_time() - began, 2)


@contextmanager
def _opened(state: Path) -> Iterator[Database]:
    state.mkdir(parents=True, exist_ok=True)
    database = Database.open(state / "overread.db")
    try:
        yield database
    finally:
        database.close()


def _copy_state(source: Path, target: Path) -> None:
    def copy(a: str, b: str) -> str:
        if a.endswith(IMMUTABLE):
            os.link(a, b)
            return b
        return shutil.copy2(a, b)

    shutil.copytree(source, target, copy_function=copy)


def _write_whole(text: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
