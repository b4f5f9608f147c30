"""When to kill: the phases of the readers and of the trainer, and how long each usually takes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from statistics import median

from overread.learning.process import PROGRESS, PROMOTED, REJECTED, REQUEST, RUNNING
from overread.studies.kill_place import RECIPE, SCORER, Place, Server, read_json
from overread.studies.kill_reader import INFERRING, SERVING, SUBMITTING, Reader

STARTING, SCORING, PROMOTING, IDLE, WAKING = "starting", "scoring", "promoting", "no training", "waking"
OF_READERS = (SERVING, INFERRING, SUBMITTING)
OF_TRAINER = ("training", "calibrating", "judging", PROMOTING)
AIMS = (STARTING, *OF_READERS, SCORING, *OF_TRAINER)
# A moment that does not come within this time is not waited for any longer.
PATIENCE_S = 300.0
POLL_S = 0.001
# How long a phase takes before it was seen: about what it takes on an idle machine.
FIRST_GUESS_S = {PROMOTING: 0.1, STARTING: 6.0}


class Moments:
    """Waits for phases.

    Args:
        train: has a training started where none runs.
    """

    def __init__(
        self, place: Place, server: Server, readers: Sequence[Reader], train: Callable[[], None]
    ) -> None:
        self._place, self._server, self._readers, self._train = place, server, readers, train
        self._lasted: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=9))
        self._versions_before: set[str] = set()

    def training_asked(self) -> None:
        """What is in the store now is none of the next challenger."""
        self._versions_before = self._versions()

    def lasted(self, phase: str, seconds: float) -> None:
        """A phase was seen from begin to end."""
        self._lasted[phase].append(seconds)

    def usual(self, phase: str) -> float:
        """Seconds that a phase takes, as far as it was seen."""
        if phase in OF_READERS:
            return max(reader.usual(phase) for reader in self._readers)
        seen = self._lasted[phase]
        return median(seen) if seen else FIRST_GUESS_S.get(phase, 1.0)

    def come(self, aim: str) -> bool:
        """Return when the phase begins; False where it does not come. The server starts when it is told to."""
        deadline = time.monotonic() + PATIENCE_S
        before, since = self.of_trainer(), None
        while time.monotonic() < deadline:
            phase = self.of_trainer()
            if phase != before:
                if since is not None:
                    self.lasted(before, time.monotonic() - since)
                before, since = phase, time.monotonic()
            if (
                aim == STARTING
                or phase == aim
                or any(reader.doing == aim for reader in self._readers)
                or (aim == SCORING and SCORER in self._server.children())
            ):
                return True
            if phase == IDLE and aim in OF_TRAINER:
                self._train()
                time.sleep(0.2)
            time.sleep(POLL_S)
        return False

    def of_trainer(self) -> str:
        """What the trainer is at. Promoting begins when the challenger's folder comes into the store."""
        if not (self._place.training / REQUEST).exists():
            return IDLE
        said = read_json(self._place.training / PROGRESS)
        if said.get("state") in (PROMOTED, REJECTED):
            return IDLE
        if said.get("state") != RUNNING:
            return WAKING
        came = said["stage"] == "judging" and self._versions() - self._versions_before
        return PROMOTING if came else said["stage"]

    def _versions(self) -> set[str]:
        return {path.name for path in self._place.store.recipe_folder(RECIPE).iterdir() if path.is_dir()}
