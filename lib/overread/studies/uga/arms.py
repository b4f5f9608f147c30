"""The arms of one seed: who is asked about what, and what comes of it.

    <arm>/rounds/05/state/      database and accepted labels after the round
    <arm>/rounds/05/model/      what was trained from them
    <arm>/rounds/05/round.json  what was asked, what the gate said, what the judges say; with it the round is done
    <arm>/training/             prepared cases and members in training
    <arm>/unit.json             all rounds; with it the arm is done

A round works on a copy of the state that the round before left and takes its place in one step, so that whatever
kills it, the next start begins that round again from the same state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import BadInputError, Grid, PatchLocation, Region
from overread.domain.labels import IGNORE
from overread.ensemble.adabn import adapt_ensemble
from overread.ensemble.calibrate import calibrate
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.volumes import read_volume
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.central import read_central
from overread.learning.gate import GateOptions, judge
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, training_set
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.strategies import EXTRAS
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.raters.robot import RobotRater
from overread.state.database import Database
from overread.studies.uga.bench import RECIPE, Bench, write_whole
from overread.studies.uga.judging import judge_cases, judge_doubt, patch_px0, random_patch, voxel_mm
from overread.studies.uga.looking import look_at, whole
from overread.studies.uga.protocol import ADABN, ALL, HED, NONE
from overread.studies.uga.sets import StudyCase

# The clock of the study: its first day, and what passes between two rounds and two questions.
FIRST_DAY_S, DAY_S, QUESTION_S = 1_700_000_000.0, 86_400.0, 60.0
ROBOT = "robot"
# Strategies that look at no map.
BLIND = ("random",)
# Patches of a place that its batch statistics are taken from.
ADABN_PATCHES = 24

Told = Callable[[str, float], None]


def run_unit(bench: Bench, arm: str, told: Told) -> None:
    """Do what is not done yet of one arm.

    Args:
        told: hears what is being done, and the share of it that is done.
    """
    finished = bench.folder / arm / "unit.json"
    if finished.exists():
        return
    if arm == NONE:
        rounds = [_first_model(bench, told)]
    elif arm == HED:
        rounds = [_stained(bench, told)]
    elif arm == ADABN:
        rounds = [_adapted(bench, told)]
    else:
        rounds = list(_rounds(bench, arm, told))
    write_whole(json.dumps({"arm": arm, "seed": bench.seed, "rounds": rounds}, allow_nan=False), finished)
    shutil.rmtree(bench.folder / arm / "training", ignore_errors=True)


def _first_model(bench: Bench, told: Told) -> dict[str, Any]:
    """Train the first model, let it look at the pool, and judge it."""
    told("training the first model", 0.0)
    ensemble = bench.load(bench.train_first(RECIPE, bench.protocol.stain))
    patches: list[dict[str, Any]] = []
    for number, case in enumerate(bench.pool):
        look = look_at(ensemble, bench.study_set, case, bench.device, bench.protocol.step)
        patches += _patch_rows(bench, case, look)
        look.maps.save(bench.maps_file(case))
        told("looking at the pool", (number + 1) / len(bench.pool))
    return {
        "budget": 0,
        "picks": [],
        "gate": None,
        "patches": patches,
        "rows": judge_cases(bench, ensemble, bench.judges, lambda share: told("judging", share)),
        "doubt": judge_doubt(bench, ensemble, list(bench.division.test)),
    }


def _stained(bench: Bench, told: Told) -> dict[str, Any]:
    """The first model trained with strong stain augmentation, and no label from elsewhere."""
    told("training with stain augmentation", 0.0)
    ensemble = bench.load(bench.train_first(HED, bench.protocol.hed))
    return {
        "budget": 0,
        "picks": [],
        "gate": None,
        "rows": judge_cases(bench, ensemble, bench.judges, lambda share: told("judging", share)),
        "doubt": judge_doubt(bench, ensemble, list(bench.division.test)),
    }


def _adapted(bench: Bench, told: Told) -> dict[str, Any]:
    """The first model with each place's own batch statistics, from pictures of the pool that nobody labelled."""
    first = bench.store.current(RECIPE)
    rows: list[dict[str, Any]] = []
    doubt: list[dict[str, Any]] = []
    rng = np.random.default_rng([bench.seed, 9])
    for number, (domain, ids) in enumerate(bench.division.pool.items()):
        cases = [bench.study_set.by_id[name] for name in ids]
        drawn = [random_patch(bench, cases[n % len(cases)], rng) for n in range(ADABN_PATCHES)]
        pictures = [picture for place in drawn if (picture := bench.image_of(place.name)) is not None]
        out = bench.folder / ADABN / f"model_{number}"
        shutil.rmtree(out, ignore_errors=True)
        adapt_ensemble(first, [(p,) for p in pictures], out, device=bench.device, seed=bench.seed)
        ensemble = bench.load(out)
        judges = [bench.study_set.by_id[name] for name in bench.division.test[domain]]
        rows += judge_cases(bench, ensemble, judges, lambda share: told("judging", share))
        doubt += judge_doubt(bench, ensemble, [domain])
    return {"budget": 0, "picks": [], "gate": None, "rows": rows, "doubt": doubt}


def _rounds(bench: Bench, arm: str, told: Told) -> Iterator[dict[str, Any]]:
    """The rounds of an arm that asks; those that are there are only read."""
    folder = bench.folder / arm
    budgets = bench.protocol.budgets[-1:] if arm == ALL else bench.protocol.budgets
    before, model = None, bench.store.current(RECIPE)
    for number, budget in enumerate(budgets, start=1):
        finished = folder / "rounds" / f"{budget:02d}"
        if not (finished / "round.json").exists():
            working = folder / "rounds" / ".working"
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir(parents=True)
            if before is not None:
                shutil.copytree(before / "state", working / "state")
            with _opened(working / "state") as database:
                done = _Round(bench, arm, number, budget, model, database, working, told).run()
            write_whole(json.dumps(done, allow_nan=False), working / "round.json")
            working.rename(finished)
        before, model = finished, finished / "model"
        yield json.loads((finished / "round.json").read_text())


@dataclass(eq=False)
class _Round:
    """One round at work on its state.

    Attributes:
        number: 1 is the first.
        budget: patches per local domain in all, when it is over.
        model: that asks, and that the training goes on from.
        folder: of the round.
    """

    bench: Bench
    arm: str
    number: int
    budget: int
    model: Path
    database: Database
    folder: Path
    told: Told

    def __post_init__(self) -> None:
        self.accepted = AcceptedLabels(self.folder / "state" / "accepted", self.database)

    def run(self) -> dict[str, Any]:
        """Ask, train, judge."""
        bench, last = self.bench, self.budget == self.bench.protocol.budgets[-1]
        picks = self.label_all() if self.arm == ALL else self.ask()
        challenger, verdict = self.learn()
        shutil.copytree(challenger, self.folder / "model")
        ensemble = bench.load(self.folder / "model")
        return {
            "budget": self.budget,
            "picks": picks,
            "gate": verdict,
            "rows": judge_cases(bench, ensemble, bench.judges, lambda share: self.told("judging", share)),
            "doubt": judge_doubt(bench, ensemble, list(bench.division.test)) if last else [],
        }

    def ask(self) -> list[dict[str, Any]]:
        """Serve the round's patches one after the other, and accept what the robot says of each."""
        bench, protocol = self.bench, self.bench.protocol
        domains = len(bench.division.pool)
        had = protocol.budgets[self.number - 2] if self.number > 1 else 0
        count = (self.budget - had) * domains
        ensemble = bench.load(self.model)
        entries, maps = self.entries(ensemble)
        settings = QueueSettings(
            strategy=self.arm, control_share=0.0, batch=count, budget=protocol.budgets[-1] * domains
        )
        queue = PatchQueue(self.database, RECIPE, self.model.name, settings)
        rng = np.random.default_rng([bench.seed, self.number, 1])
        now = FIRST_DAY_S + self.number * DAY_S
        sizes = {name: self.patch_px(name, entry) for name, entry in entries.items()}
        # `needs` of a strategy are computed for every slide before the first question, as the server's scorer does.
        of_size = {size: {n: e for n, e in entries.items() if sizes[n] == size} for size in {*sizes.values()}}
        picks: list[dict[str, Any]] = []
        for _ in range(count):
            served = self.served(queue, entries, of_size, now, rng)
            if served is None:
                break
            now += QUESTION_S
            picks.append(self.accept(served.location, served.score, served, ensemble, maps, now))
            self.told("asking", len(picks) / count)
        return picks

    def served(
        self,
        queue: PatchQueue,
        entries: Mapping[str, SlideEntry],
        of_size: Mapping[tuple[int, int] | None, Mapping[str, SlideEntry]],
        now: float,
        rng: np.random.Generator,
    ) -> ServedPatch | None:
        """The next patch; None when nothing is left."""
        if self.arm in EXTRAS and now == FIRST_DAY_S + self.number * DAY_S:
            for size, some in of_size.items():
                queue.warm(some, size)
        size = next(iter(of_size))
        found = queue.ask(self.arm, ROBOT, entries, None, size, now, rng)
        return found if isinstance(found, ServedPatch) else None

    def patch_px(self, name: str, entry: SlideEntry) -> tuple[int, int] | None:
        """Width and height of what is asked about on a slide, in its level-0 pixels; a volume is asked about whole."""
        if self.bench.study_set.patch_px is None:
            return (10**6, 10**6)
        edge = patch_px0(self.bench, entry.pixel_size.um)
        return edge, edge

    def entries(self, ensemble: Ensemble) -> tuple[dict[str, SlideEntry], dict[str, SlideMaps]]:
        """All cases of the pool as the queue wants them, with what the model in service says of each."""
        bench = self.bench
        maps: dict[str, SlideMaps] = {}
        for index, case in enumerate(bench.pool):
            if self.number == 1 or self.arm in BLIND:
                maps[case.id] = bench.first_maps(case)
            else:
                look = look_at(ensemble, bench.study_set, case, bench.device, bench.protocol.step)
                maps[case.id] = look.maps
            self.told("looking at the pool", (index + 1) / len(bench.pool))
        entries = {
            case.id: SlideEntry(
                lambda found=maps[case.id]: found,
                case.patient,
                case.domain,
                maps[case.id].slide_size_px,
                maps[case.id].slide_pixel_size,
                version=self.model.name + str(self.number),
            )
            for case in bench.pool
        }
        return entries, maps

    def label_all(self) -> list[dict[str, Any]]:
        """Accept the truth about the whole pool."""
        bench = self.bench
        ensemble = bench.load(self.model)
        maps = {case.id: bench.first_maps(case) for case in bench.pool}
        picks = []
        for index, case in enumerate(bench.pool):
            now = FIRST_DAY_S + self.number * DAY_S + index * QUESTION_S
            location = PatchLocation(case.id, whole(maps[case.id]))
            picks.append(self.accept(location, None, None, ensemble, maps, now))
            self.told("labelling everything", (index + 1) / len(bench.pool))
        return picks

    def accept(
        self,
        location: PatchLocation,
        score: float | None,
        served: ServedPatch | None,
        ensemble: Ensemble,
        maps: Mapping[str, SlideMaps],
        now: float,
    ) -> dict[str, Any]:
        """The robot's word about a patch becomes an accepted label; what it cost."""
        bench = self.bench
        case = bench.study_set.by_id[location.slide]
        image = bench.image_of(location.name)
        if image is None:
            raise BadInputError(f"the picture of {location.name} cannot be cut out of {case.image}")
        grid: Grid = read_volume((image,)).grid
        label = RobotRater(seed=bench.seed).label(bench.label_of(location), grid.spacing_mm, location.name)
        origin = Submission(
            case_id=location.name,
            patient=case.patient,
            rater=ROBOT,
            client_id=ROBOT,
            recipe=RECIPE,
            champion=ensemble.identity,
            serving=served.serving if served else None,
            classes=ensemble.classes,
        )
        self.accepted.add(label, grid, origin, now)
        tissue = {name: float(m.tissue.sum()) for name, m in maps.items()}
        of_domain = sum(tissue[name] for name in bench.division.pool[case.domain])
        inside = maps[case.id].tissue[maps[case.id].cells(location.region)].sum()
        is_volume = bench.study_set.axes == 3
        return {
            "domain": case.domain,
            "case": case.id,
            "box": None if is_volume else list(location.region.bbox),
            "score": score,
            "reason": served.reason if served else "",
            "mm2": label.size * voxel_mm(bench, case),
            "tissue_share": float(inside) / max(of_domain, 1.0),
            "foreground_share": float(((label > 0) & (label != IGNORE)).mean()),
        }

    def learn(self) -> tuple[Path, dict[str, Any] | None]:
        """Train on all that was accepted, and hear the gate: the challenger and the verdict."""
        bench, protocol = self.bench, self.bench.protocol
        domains = {case.id: case.domain for case in bench.study_set.cases}
        local = [
            LocalCase(
                case.id, (case.image,), case.label, case.patient, case.protected, domains[_slide_of(case.id)]
            )
            for case in self.accepted.cases(RECIPE, bench.image_of, classes=bench.study_set.classes)
        ]
        gate = GateOptions(fewest_cases=1, fewest_protected=5 if protocol.gated else 1)
        cases = training_set(
            self.model,
            read_central(bench.store.recipe_folder(RECIPE)),
            local,
            gate.fewest_protected if protocol.gated else 0,
        )
        training = bench.folder / self.arm / "training"
        challenger = retrain(
            self.model,
            cases,
            training,
            protocol.retraining(bench.seed * 100 + self.number, bench.device),
            progress=lambda now: self.told(now.stage, now.share),
        )
        calibrate(challenger, cases.dataset, device=bench.device)
        if not protocol.gated:
            return challenger, None
        decision = judge(self.model, challenger, cases, gate, bench.device)
        told = {"promoted": decision.promoted, "reason": decision.reason}
        for name, table in (("local", decision.local), ("central", decision.central)):
            told[f"{name}_difference"] = table.difference if table else None
        return challenger, told


def _slide_of(case: str) -> str:
    location = PatchLocation.parse(case)
    return location.slide if location else case


def _patch_rows(bench: Bench, case: StudyCase, look: Any) -> list[dict[str, Any]]:
    """How doubtful each patch of a case is by three measures, and what the model's outline is worth there."""
    from overread.metrics.overlap import dice
    from overread.queue.patches.candidates import patch_table
    from overread.studies.uga.judging import truth_of

    maps: SlideMaps = look.maps
    edge = 10**6 if bench.study_set.patch_px is None else patch_px0(bench, maps.slide_pixel_size.um)
    table = patch_table(case.id, maps, (edge, edge))
    measures = {"predictive_entropy": table.doubt.astype(float)} | {
        name: np.asarray(EXTRAS[name](table, maps), float) for name in ("pairwise_dice", "uga")
    }
    truth = truth_of(bench, case, look)
    rows: list[dict[str, Any]] = []
    taken: list[Region] = []
    for index in range(len(table)):
        region = table.region(index)
        if any(region.overlaps(other) for other in taken):
            continue
        taken.append(region)
        part = _part(bench, look, region)
        found = dice(
            look.labels[part].astype(np.int32),
            truth[part].astype(np.int32),
            len(bench.study_set.classes),
            both_empty=float("nan"),
        )
        if not np.isfinite(found).any():
            continue
        rows += [
            {
                "domain": case.domain,
                "case": case.id,
                "box": list(region.bbox) if bench.study_set.axes == 2 else None,
                "measure": name,
                "uncertainty": float(values[index]),
                "dice": float(np.nanmean(found)),
            }
            for name, values in measures.items()
            if np.isfinite(values[index])
        ]
    return rows


def _part(bench: Bench, look: Any, region: Region) -> tuple[slice, ...]:
    """The pixels of a region in what was said."""
    if bench.study_set.axes == 3:
        return (slice(None),) * look.labels.ndim
    zoom = look.maps.slide_pixel_size.um / bench.study_set.pixel_size.um
    rows = slice(round(region.y * zoom), max(round(region.bottom * zoom), round(region.y * zoom) + 1))
    columns = slice(round(region.x * zoom), max(round(region.right * zoom), round(region.x * zoom) + 1))
    return rows, columns


@contextmanager
def _opened(state: Path) -> Iterator[Database]:
    state.mkdir(parents=True, exist_ok=True)
    database = Database.open(state / "overread.db")
    try:
        yield database
    finally:
        database.close()
