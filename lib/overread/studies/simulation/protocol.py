"""What decides a simulation, and where its finished rounds lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from overread.domain import BadInputError
from overread.ensemble.plan import Hardware
from overread.studies.simulation.annotation_cost import CostModel
from overread.studies.simulation.cases import Labelled, read_labelled
from overread.studies.simulation.statistics import Row

# A network that learns within seconds on one core; a study compares strategies, not networks.
SMALL = Hardware({2: 128**2, 3: 112_000}, {2: 2 * 128**2, 3: 180_000}, 8, {2: 64, 3: 32}, 4)


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the rounds; what is equal gives equal rows.

    Attributes:
        recipe: the model's name.
        start, protected, test, pool: numbers of cases, see `split_by_patient`.
        step: cases asked between two trainings.
        until: the budget: cases that can be learnt from at the end, start cases included.
        scored: score only so many waiting cases a round, drawn at random; None scores all.
        members: networks of the ensemble.
        starter_iterations: training steps of each member of the starter.
        iterations: training steps of each member in a round.
        begin: each round trains from the `champion` or from `scratch`.
        rate_factor, replay_share: see `RetrainingOptions`.
        with_gate: judge challengers; without it every one is promoted, and every member learns from every label.
        batch: patches in a training step; None leaves it to the plan.
        coarser: voxel edges of the model in multiples of the planned ones; costs fall with its cube.
        patch_mm: of each asked case only a box of this edge is labelled, where the doubt is greatest; None: all of it.
        jitter_mm, missed_mm3: errors of the robot, see `RobotRater`.
        costs: the stated model of the reader's minutes.
    """

    recipe: str
    start: int = 5
    protected: int = 5
    test: int = 40
    pool: int | None = None
    step: int = 5
    until: int = 40
    scored: int | None = None
    members: int = 3
    starter_iterations: int = 150
    iterations: int = 60
    begin: Literal["champion", "scratch"] = "champion"
    rate_factor: float = 0.1
    replay_share: float = 0.5
    with_gate: bool = True
    batch: int | None = None
    coarser: float = 1.0
    patch_mm: float | None = None
    jitter_mm: float = 0.0
    missed_mm3: float = 0.0
    costs: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        for name in ("start", "protected", "test", "step", "members", "starter_iterations", "iterations"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("pool", "scored"):
            if getattr(self, name) is not None and getattr(self, name) < self.step:
                raise BadInputError(
                    f"{name} is {getattr(self, name)}, expected at least as many as are asked in a round ({self.step})"
                )
        if self.until <= self.start or (self.until - self.start) % self.step:
            raise BadInputError(
                f"until is {self.until}, expected {self.start} start cases plus one or more steps of {self.step}"
            )

    @classmethod
    def quick(cls, recipe: str) -> Protocol:
        """For a minute's taste on two cores: few cases, a small network on coarse voxels."""
        return cls(
            recipe,
            start=2,
            protected=2,
            test=4,
            step=2,
            until=6,
            members=2,
            starter_iterations=60,
            iterations=30,
            coarser=2.0,
        )

    def changed(self, changes: Mapping[str, Any]) -> Protocol:
        """The same but for some fields."""
        return replace(self, **changes)

    @property
    def rounds(self) -> int:
        """Rounds after the starter."""
        return (self.until - self.start) // self.step


@dataclass(frozen=True)
class Study:
    """A protocol on data, in a work folder of its own.

    Attributes:
        data, classes, patient_pattern: see `read_labelled`.
        folder: `<work>/<key>`.
    """

    protocol: Protocol
    data: Path
    classes: tuple[str, ...]
    patient_pattern: str | None
    folder: Path

    def settings(self) -> dict[str, Any]:
        """Plain JSON for the report."""
        return {
            "protocol": asdict(self.protocol),
            "data": self.data.name,
            "classes": list(self.classes),
            "patient_pattern": self.patient_pattern,
            "key": self.folder.name,
        }

    def labelled(self) -> Labelled:
        """The cases of the study."""
        return read_labelled(self.data, self.classes, self.patient_pattern)


def open_study(
    protocol: Protocol,
    data: Path,
    work: Path,
    classes: tuple[str, ...] = (),
    patient_pattern: str | None = None,
) -> Study:
    """The study's folder below `work`, named by a hash of protocol, settings and the data's files.

    Raises:
        NotFoundError, BadInputError: see `read_labelled`.
    """
    data = Path(data).resolve()
    labelled = read_labelled(data, classes, patient_pattern)
    key = sha256(json.dumps(asdict(protocol), sort_keys=True, default=dict).encode())
    key.update(f"{labelled.classes} {sorted(labelled.patients.items())}".encode())
    for case in labelled.cases:
        for path in (*case.channels, case.label):
            key.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    folder = Path(work).resolve() / key.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return Study(protocol, data, labelled.classes, patient_pattern, folder)


def finished_rows(study: Study, seed: int, strategy: str) -> list[Row]:
    """Rows of the rounds that are there, in order, up to the first that is not."""
    rows: list[Row] = []
    for number in range(study.protocol.rounds + 1):
        path = row_file(study, seed, strategy, number)
        if not path.exists():
            break
        rows.append(Row(**json.loads(path.read_text())))
    return rows


def row_file(study: Study, seed: int, strategy: str, number: int) -> Path:
    """Where a finished round is written down."""
    return study.folder / f"seed_{seed}" / strategy / f"{number:02d}" / "round.json"
