"""One round of an arm: ask by the model in service, accept the robot's labels, train, hear the gate, judge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import BadInputError, Grid, PatchLocation
from overread.domain.labels import IGNORE
from overread.ensemble.calibrate import calibrate
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.volumes import read_volume
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.central import read_central
from overread.learning.gate import GateOptions, judge
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, training_set, with_unlabelled
from overread.queue.patches.serving import PatchQueue
from overread.queue.patches.strategies import EXTRAS
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.queue.strategies import STRATEGIES
from overread.raters.robot import RobotRater
from overread.state.database import Database
from overread.state.servings import Serving
from overread.studies.uga.bench import RECIPE, Bench, Told
from overread.studies.uga.judging import judge_cases, judge_doubt, patch_px0, voxel_mm
from overread.studies.uga.looking import whole
from overread.studies.uga.places import at_each_place, unlabelled_cases
from overread.studies.uga.protocol import ALL
from overread.studies.uga.queues import ROBOT, Patches, Volumes, queue_of, score_volume
from overread.studies.uga.self_taught import taught_cases

# The clock of the study: its first day, and what passes between two rounds and two questions.
FIRST_DAY_S, DAY_S, QUESTION_S = 1_700_000_000.0, 86_400.0, 60.0
# Strategies that look at no map.
BLIND = ("random",)
# More than any case has along an edge.
WHOLE_PX = 10**6


@dataclass(eq=False)
class Round:
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
        # The ceiling is what labels can do, whatever a gate thinks of it.
        is_heard = bench.protocol.obeyed and self.arm != ALL
        is_rejected = is_heard and verdict is not None and not verdict["promoted"]
        shutil.copytree(self.model if is_rejected else challenger, self.folder / "model")
        with at_each_place(bench, self.folder / "model", self.folder / "judging") as at:
            return {
                "budget": self.budget,
                "picks": picks,
                "gate": verdict,
                "rows": judge_cases(bench, at, bench.judges, lambda share: self.told("judging", share)),
                "doubt": judge_doubt(bench, at, list(bench.division.test)) if last else [],
            }

    def ask(self) -> list[dict[str, Any]]:
        """Serve the round's patches or volumes one after the other, and accept what the robot says of each."""
        bench, protocol = self.bench, self.bench.protocol
        places = [""] if protocol.pooled else list(bench.division.pool)
        had = protocol.budgets[self.number - 2] if self.number > 1 else 0
        each = (self.budget - had) * (len(bench.division.pool) if protocol.pooled else 1)
        ensemble = bench.load(self.model)
        # No budget, as at a hospital that has planned none: the queue shares out what comes before the next training.
        settings = QueueSettings(strategy=self.arm, control_share=0.0, batch=each, share=protocol.share)
        # The paper's score is one of patches only.
        is_of_cases = protocol.queue == "cases" and self.arm in STRATEGIES
        asking = self.cases(ensemble, settings) if is_of_cases else self.patches(settings)
        rng = np.random.default_rng([bench.seed, self.number, 1])
        now = FIRST_DAY_S + self.number * DAY_S
        picks: list[dict[str, Any]] = []
        for place in places * each:
            served = asking.serve(place, now, rng)
            if served is None:
                continue
            now += QUESTION_S
            picks.append(self.accept(*served, ensemble, asking.maps, now))
            self.told("asking", len(picks) / (each * len(places)))
        return picks

    def patches(self, settings: QueueSettings) -> Patches:
        """The queue of patches over the pool."""
        entries, maps = self.entries()
        queue = PatchQueue(self.database, RECIPE, self.model.name, settings)
        size = self.patch_px(entries)
        if self.arm in EXTRAS:
            # What a strategy needs beside is computed for every slide before the first question, as in service.
            queue.warm(entries, size)
        return Patches(self.arm, queue, entries, maps, size)

    def cases(self, ensemble: Ensemble, settings: QueueSettings) -> Volumes:
        """The queue of cases over the pool, which the model in service has scored."""
        bench = self.bench
        labelled = self.accepted.cases(RECIPE, bench.image_of, classes=bench.study_set.classes)
        asked = {slide_of(case.id) for case in labelled}
        if self.arm not in BLIND:
            for index, case in enumerate(bench.pool):
                score_volume(self.database, ensemble, case, case.id in asked, bench.device)
                self.told("looking at the pool", (index + 1) / len(bench.pool))
        maps = {case.id: bench.first_maps(case) for case in bench.pool}
        return Volumes(self.arm, queue_of(self.database, ensemble, settings), bench.pool, maps, asked)

    def patch_px(self, entries: Mapping[str, SlideEntry]) -> tuple[int, int]:
        """Width and height of what is asked about, in level-0 pixels of most slides; a volume is asked about whole."""
        if self.bench.study_set.patch_px is None:
            return WHOLE_PX, WHOLE_PX
        um = float(np.median([entry.pixel_size.um for entry in entries.values()]))
        edge = patch_px0(self.bench, um)
        return edge, edge

    def entries(self) -> tuple[dict[str, SlideEntry], dict[str, SlideMaps]]:
        """All cases of the pool as the queue wants them, with what the model in service says of each."""
        bench = self.bench
        is_first = self.number == 1 and not (bench.protocol.by_place or bench.protocol.self_taught)
        is_known = self.arm in BLIND or is_first
        maps = {case.id: bench.first_maps(case) for case in bench.pool} if is_known else self.look_again()
        maps = {name: with_peaks(found, bench.protocol.peaks) for name, found in maps.items()}
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

    def look_again(self) -> dict[str, SlideMaps]:
        """What the model in service says of all cases of the pool."""
        bench, maps = self.bench, {}
        with at_each_place(bench, self.model, self.folder / "asking") as at:
            ensembles = {domain: at(domain) for domain in bench.division.pool}
        for index, case in enumerate(bench.pool):
            maps[case.id] = bench.look(ensembles[case.domain], case).maps
            self.told("looking at the pool", (index + 1) / len(bench.pool))
        return maps

    def label_all(self) -> list[dict[str, Any]]:
        """Accept the truth about the whole pool."""
        bench = self.bench
        ensemble = bench.load(self.model)
        maps = {case.id: bench.first_maps(case) for case in bench.pool}
        picks = []
        for index, case in enumerate(bench.pool):
            now = FIRST_DAY_S + self.number * DAY_S + index * QUESTION_S
            location = PatchLocation(case.id, whole(maps[case.id]))
            picks.append(self.accept(location, None, ensemble, maps, now))
            self.told("labelling everything", (index + 1) / len(bench.pool))
        return picks

    def accept(
        self,
        location: PatchLocation,
        serving: Serving | None,
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
            serving=serving,
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
            "score": serving.score if serving else None,
            "reason": serving.reason if serving else "",
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
                case.id, (case.image,), case.label, case.patient, case.protected, domains[slide_of(case.id)]
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
        learnt = cases
        if protocol.beside and self.arm != ALL:
            beside = unlabelled_cases(bench, self.budget, bench.folder / self.arm / "unlabelled")
            learnt = with_unlabelled(cases, beside)
        elif protocol.self_taught and self.arm != ALL:
            learnt = with_unlabelled(cases, taught_cases(bench))
        challenger = retrain(
            self.model,
            learnt,
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


def with_peaks(maps: SlideMaps, exponent: float) -> SlideMaps:
    """The same with doubt raised to a power, by which a patch's mean leans towards its peaks."""
    if exponent == 1:
        return maps

    def raised(doubt: np.ndarray) -> np.ndarray:
        # Of doubt in half precision little would be left.
        return doubt.astype(np.float32) ** exponent

    doubt = {name: raised(values) if name == maps.asked_by else values for name, values in maps.maps.items()}
    return replace(maps, maps=doubt, class_doubt=raised(maps.class_doubt))


def slide_of(case: str) -> str:
    """The case that a label belongs to."""
    location = PatchLocation.parse(case)
    return location.slide if location else case


@contextmanager
def opened_database(state: Path) -> Iterator[Database]:
    """The database of a round, closed at the end."""
    state.mkdir(parents=True, exist_ok=True)
    database = Database.open(state / "overread.db")
    try:
        yield database
    finally:
        database.close()
