"""A study in pieces that several processes share: one piece is an arm of a seed of a set.

    <work>/<set>/set/                   the set, put in order
    <work>/<set>/<protocol>/protocol.json
    <work>/<set>/<protocol>/seed_0/     see `bench`; <arm>/unit.json says that a piece is done

A process takes a piece that nobody works on and that can be done: arms wait for the seed's first model. Whoever is
killed loses the round that it was at.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from overread.domain import BadInputError
from overread.ensemble.compute import choose_device
from overread.queue.claims import Claims
from overread.studies.uga import published  # noqa: F401 - enters its sets
from overread.studies.uga.arms import run_unit
from overread.studies.uga.bench import Bench, write_whole
from overread.studies.uga.protocol import NONE, UNASKED, Protocol, checked_arms
from overread.studies.uga.sets import StudySet
from overread.studies.uga.sources import is_ready, prepare_set

logger = logging.getLogger(__name__)

WAIT_S = 0.5
# Where a set lies in order, in its part of the work folder.
SET = "set"
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        work: keeps everything.
        data: folder of the sets' data.
        sets, arms, seeds: which pieces.
        protocol: how.
        device: `auto`, `cpu`, `cuda` …
        central: domain that the model is first trained on, where it is not the set's own.
    """

    work: Path
    data: Path | None
    sets: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    protocol: Protocol
    device: str = "auto"
    central: str = ""


@dataclass(frozen=True)
class Unit:
    """One piece; `set_name` is what the set is called on the command line."""

    set_name: str
    bench: Bench
    arm: str

    @property
    def is_done(self) -> bool:
        """Whether its results are there."""
        return (self.bench.folder / self.arm / "unit.json").exists()

    @property
    def is_ready(self) -> bool:
        """Whether what it needs is there."""
        needed = (
            () if self.arm == NONE else (NONE,) if self.arm in UNASKED else self.bench.protocol.before_asking
        )
        return all((self.bench.folder / arm / "unit.json").exists() for arm in needed)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.bench.study_set.name}, seed {self.bench.seed}, {self.arm}"


def study_folder(job: Job, set_name: str, axes: int) -> Path:
    """Where a set's seeds lie under this protocol."""
    key = job.protocol.of_axes(axes).key()
    return Path(job.work) / set_name / f"{key}{f'-{job.central}' if job.central else ''}"


def open_set(job: Job, name: str, report: Report = lambda _what, _share: None) -> StudySet:
    """The set, put in order by one process while the others wait, at the protocol's pixel and patch size."""
    folder = Path(job.work) / name / SET
    folder.mkdir(parents=True, exist_ok=True)
    claims = Claims(folder / "claims")
    while True:
        with claims.claim("set") as mine:
            if mine:
                found = prepare_set(
                    name,
                    job.data,
                    folder,
                    lambda share: report(f"reading {name}", share),
                    job.central,
                    (Path(job.work),),
                )
                scale = job.protocol.scale_of(name)
                found = found.with_patch(scale.um_per_px, scale.patch_px)
                return replace(found, of_places=job.protocol.normalised == "place")
        time.sleep(WAIT_S)


def units_of(job: Job, report: Report = lambda _what, _share: None) -> list[Unit]:
    """All pieces, seed by seed, so that whatever ends a study early leaves whole seeds behind."""
    device = str(choose_device(job.device))
    found = []
    for name in job.sets:
        study_set = open_set(job, name, report)
        try:
            protocol = job.protocol.of_axes(study_set.axes)
        except BadInputError as error:
            raise BadInputError(f"{name}: {error}") from error
        folder = study_folder(job, name, study_set.axes)
        write_whole(json.dumps(asdict(protocol), indent=1), folder / "protocol.json")
        wanted = (*job.protocol.before_asking, *job.arms)
        for seed in job.seeds:
            bench = Bench(study_set, protocol, seed, folder / f"seed_{seed}", device)
            found += [Unit(name, bench, arm) for arm in checked_arms(wanted, study_set.axes)]
    order = {name: place for place, name in enumerate(job.sets)}
    return sorted(found, key=lambda u: (u.bench.seed, u.arm != NONE, order[u.set_name]))


def run_study(job: Job, report: Report = lambda _what, _share: None) -> None:
    """Do all pieces that nobody else does, and wait for those that somebody does.

    Args:
        report: hears what is being done, and the share of the pieces that are done.
    """
    units = units_of(job, report)
    claims = Claims(Path(job.work) / "claims")

    def done() -> float:
        return sum(unit.is_done for unit in units) / len(units)

    while waiting := [unit for unit in units if not unit.is_done]:
        if not any(_try(unit, claims, report, done) for unit in waiting):
            report("waiting for other processes", done())
            time.sleep(WAIT_S)
    report("done", 1.0)


def _try(unit: Unit, claims: Claims, report: Report, done: Callable[[], float]) -> bool:
    """Do a piece, if it can be done and nobody does it. Whether it was done here."""
    if unit.is_done or not unit.is_ready:
        return False
    with claims.claim(str(unit.bench.folder.resolve()), unit.arm) as mine:
        if not mine or unit.is_done:
            return False
        share = done()
        began = time.monotonic()
        unit.bench.folder.mkdir(parents=True, exist_ok=True)
        run_unit(unit.bench, unit.arm, lambda what, _share: report(f"{unit.name}: {what}", share))
        logger.info("%s took %.0f s", unit.name, time.monotonic() - began)
        if unit.bench.device != "cpu":
            torch.cuda.empty_cache()
    return True


def finished(job: Job, name: str) -> Sequence[Path]:
    """Results of a set's pieces that are done, whatever was asked for now."""
    if not is_ready(Path(job.work) / name / SET):
        return []
    return sorted(study_folder(job, name, open_set(job, name).axes).glob("seed_*/*/unit.json"))
