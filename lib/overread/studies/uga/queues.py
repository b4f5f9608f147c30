"""Who asks in a round: the server's queue of patches about pictures, or its queue of cases about volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from overread.domain import PatchLocation
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.imaging.volumes import read_volume
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.scoring import CHAMPION_LENGTH, cold_score, revision_of, score_case
from overread.queue.serving import CaseQueue
from overread.queue.settings import QueueSettings
from overread.state.database import Database
from overread.state.scores import COLD, put_score, scores_of
from overread.state.servings import Serving
from overread.studies.uga.bench import RECIPE
from overread.studies.uga.looking import whole
from overread.studies.uga.sets import StudyCase

ROBOT = "robot"
# What was asked about, and under which lease.
Asked = tuple[PatchLocation, Serving]


@dataclass(eq=False)
class Patches:
    """The queue of patches.

    Attributes:
        strategy: by which it asks.
        entries, maps: the pool as the queue wants it, and what the model in service says of it.
        size_px: width and height of a patch, in level-0 pixels.
    """

    strategy: str
    queue: PatchQueue
    entries: Mapping[str, SlideEntry]
    maps: Mapping[str, SlideMaps]
    size_px: tuple[int, int]

    def serve(self, place: str, now: float, rng: np.random.Generator) -> Asked | None:
        """The next patch of a place (of any where it is empty); None where there is none."""
        there = {name: entry for name, entry in self.entries.items() if place in ("", entry.centre)}
        served = self.queue.ask(self.strategy, ROBOT, there, None, self.size_px, now, rng)
        return (served.location, served.serving) if isinstance(served, ServedPatch) else None


@dataclass(eq=False)
class Volumes:
    """The queue of cases, as it serves volumes at a hospital.

    Attributes:
        strategy: by which it asks.
        pool: that may be asked about.
        maps: the first model's, of every case.
        asked: of the pool, by name.
    """

    strategy: str
    queue: CaseQueue
    pool: Sequence[StudyCase]
    maps: Mapping[str, SlideMaps]
    asked: set[str]

    def serve(self, place: str, now: float, rng: np.random.Generator) -> Asked | None:
        """The next volume of a place (of any where it is empty); None where all are labelled."""
        waiting = {
            case.id: case.patient
            for case in self.pool
            if place in ("", case.domain) and case.id not in self.asked
        }
        labelled = {case.id: case.patient for case in self.pool if case.id in self.asked}
        served = self.queue.next_case(self.strategy, ROBOT, waiting, labelled, now, rng)
        if served is None:
            return None
        name = served.serving.case_id
        self.asked.add(name)
        return PatchLocation(name, whole(self.maps[name])), served.serving


def queue_of(database: Database, ensemble: Ensemble, settings: QueueSettings) -> CaseQueue:
    """The queue of cases that an ensemble's scores are for."""
    return CaseQueue(database, RECIPE, ensemble.identity[:CHAMPION_LENGTH], ensemble.classes[1:], settings)


def score_volume(
    database: Database, ensemble: Ensemble, case: StudyCase, is_asked: bool, device: str
) -> None:
    """Put down what the model in service says of a case, and of one that was asked where it lies among others."""
    champion = COLD if is_asked else ensemble.identity[:CHAMPION_LENGTH]
    with database.reading() as c:
        if case.id in scores_of(c, RECIPE, champion):
            return
    volume, revision = read_volume([case.image]), revision_of(case.image)
    # When it was scored decides nothing, so that a study that goes on gets the same.
    row = (
        cold_score(volume, RECIPE, case.id, revision, 0.0)
        if is_asked
        else score_case(ensemble, volume, RECIPE, case.id, revision, 0.0, device)
    )
    with database.writing() as c:
        put_score(c, row)
