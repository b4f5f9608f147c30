"""`kill -9` of server, trainer or scorer at random moments of a busy day: nothing that was answered is lost.

    python -m overread.studies.kill_test --kills 100 --work DIR --seed 1

Two readers ask, infer and submit without rest; challengers are trained one after another. Before each kill a moment
is drawn: a phase, and a delay within the time that the phase usually takes. After each kill the server starts again
(where it was killed; half of the time before its orphans have ended), carries on by itself, and everything in
`kill_checks` must hold. What was promoted is rolled back before the next training, so that there is something to learn.

Ends with the counts of what was hit, and with exit code 1 where anything was wrong. DIR must not exist.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import requests

from overread.domain import OverreadError
from overread.learning.process import PROGRESS, REQUEST, RUNNING
from overread.learning.versions import roll_back
from overread.state.database import Database
from overread.state.decisions import decisions
from overread.studies.kill_checks import labels_kept, memories_agree, while_dead
from overread.studies.kill_moments import (
    AIMS,
    IDLE,
    OF_TRAINER,
    SCORING,
    STARTING,
    WAKING,
    Moments,
)
from overread.studies.kill_place import RECIPE, SCORER, TRAINER, Place, Server, make_place, read_json
from overread.studies.kill_reader import INFERRING, RESTING, SERVING, SUBMITTING, Ledger, Reader
from overread.studies.kill_report import Report

SERVER = "server"
# What a kill may hit, by what it aims at. Where the server dies alone, its children notice for themselves.
TARGETS: dict[str, tuple[tuple[str, ...], ...]] = {
    STARTING: ((SERVER,), (SERVER, TRAINER, SCORER)),
    SERVING: ((SERVER,), (SERVER, TRAINER)),
    INFERRING: ((SERVER,), (SERVER, TRAINER)),
    SUBMITTING: ((SERVER,), (SERVER, TRAINER)),
    SCORING: ((SCORER,), (SERVER, SCORER)),
    **dict.fromkeys(OF_TRAINER, ((TRAINER,), (SERVER,), (SERVER, TRAINER))),
}
PHASES = (*AIMS, RESTING, WAKING, "checking", "preparing", IDLE)
READERS = ("anna", "berta")
LABELS_BEFORE_TRAINING = 6
CARRIES_ON_WITHIN_S = 1200.0
# The server takes up a trainer that was killed from outside this many times (`server.training`).
TRAINER_LIVES = 3
# A promotion that is under way makes the memories differ for a moment.
AGREE_WITHIN_S = 15.0


class KillTest:
    """Two readers, a trainer, and somebody who kills.

    Args:
        place: from `make_place`.
        say: hears of each kill, a sentence.

    Attributes:
        report: what came of it so far.
        ledger: what the readers sent.
    """

    def __init__(self, place: Place, seed: int, say: Callable[[str], None] = lambda _: None) -> None:
        self.place, self._say = place, say
        self._rng = np.random.default_rng(seed)
        self.report, self.ledger = Report(), Ledger()
        self._server = Server(place)
        self._readers = [Reader(name, self._server.url, place, self.ledger) for name in READERS]
        self._moments = Moments(place, self._server, self._readers, self._train)
        self._trainer_deaths = 0

    def run(self, aims: Sequence[str]) -> Report:
        """One kill for each phase in `aims`. Starts and ends the server.

        Raises:
            OverreadError: something that has to come by itself did not come.
        """
        try:
            self._start()
            for reader in self._readers:
                reader.start()
            self._until(lambda: len(self.ledger.answered()) >= LABELS_BEFORE_TRAINING, "the first labels")
            for number, aim in enumerate(aims, start=1):
                self._round(number, aim)
            self._until(lambda: not self._is_training(), "the end of the last training")
            self._check("at the end")
            self._count()
        finally:
            self._server.stop()
        return self.report

    def _round(self, number: int, aim: str) -> None:
        """One kill, and what follows."""
        self._train()
        came = self._moments.come(aim)
        (self.report.reached if came else self.report.missed)[aim] += 1
        if aim == STARTING:
            self._kill((SERVER,))
            self._server.spawn()
        time.sleep(self._rng.uniform(0, self._moments.usual(aim)))
        targets = TARGETS[aim][self._rng.integers(len(TARGETS[aim]))]
        if TRAINER in targets and SERVER not in targets and self._trainer_deaths >= TRAINER_LIVES:
            targets = (SERVER, *targets)
        # Counted before the second kill of a start.
        self.report.kills += 1
        where, hit = self._kill(targets)
        interrupted: list[str] = []
        if SERVER in hit:
            self._trainer_deaths = 0
            if self._rng.random() < 0.5:
                self._until(lambda: not orphans(self.place), "the end of the dead server's children")
                wrong, interrupted = while_dead(self.place)
                self._note(f"after kill {number}", wrong)
                self.report.interrupted.update(interrupted)
            asked = read_json(self.place.training / REQUEST).get("id", "")
            self._start()
        else:
            self._trainer_deaths += TRAINER in hit
            asked = read_json(self.place.training / REQUEST).get("id", "")
        self._carries_on(number, asked)
        self._check(f"after kill {number}")
        said = f"kill {number}: {' and '.join(hit) or 'nothing'} while {where}"
        self._say("; ".join([said, *interrupted]))
        for reader in self._readers:
            reader.start()

    def _kill(self, targets: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Kill what is there of the targets. Returns the phase in words, and what was killed."""
        children = self._server.children()
        phase, doing = self._moments.of_trainer(), [reader.doing for reader in self._readers]
        hit = []
        if SERVER in targets:
            for reader in self._readers:
                reader.server_dies()
            self._server.kill()
            hit.append(SERVER)
        for name in (TRAINER, SCORER):
            if name in targets and name in children:
                try:
                    children[name].kill()
                    hit.append(name)
                except psutil.NoSuchProcess:
                    # It ended in the moment before.
                    continue
        self.report.hits.update([(name, "+".join(hit) or "nothing") for name in {phase, *doing}])
        return f"{phase}, readers {' and '.join(doing)}", tuple(hit)

    def _start(self) -> None:
        began = time.monotonic()
        self._server.spawn()
        self._server.wait()
        self._moments.lasted(STARTING, time.monotonic() - began)

    # -- what must follow -----------------------------------------------------------------------------------------

    def _carries_on(self, number: int, asked: str) -> None:
        """A training that was asked for goes on by itself, or has been decided."""
        if not asked:
            return

        def goes_on() -> bool:
            if read_json(self.place.training / REQUEST).get("id") != asked:
                return True
            trainer = self._server.children().get(TRAINER)
            said = read_json(self.place.training / PROGRESS)
            return trainer is not None and said.get("pid") == trainer.pid and said.get("state") == RUNNING

        self._until(goes_on, f"after kill {number} the training to carry on")
        task = requests.get(f"{self._server.url}/train/", timeout=60).json()
        if task.get("status") == "ERROR":
            self._note(f"after kill {number}", [f"the training ended as {task}"])

    def _check(self, when: str) -> None:
        """Everything that must hold, with the readers at rest."""
        for reader in self._readers:
            reader.rest()
        self._note(when, self.ledger.troubles)
        self.ledger.troubles.clear()
        self._note(when, labels_kept(self.place, self.ledger))
        deadline = time.monotonic() + AGREE_WITHIN_S
        while (wrong := memories_agree(self.place)) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._note(when, wrong)

    def _note(self, when: str, wrong: Sequence[str]) -> None:
        for sentence in wrong:
            self.report.wrong.append(f"{when}: {sentence}")
            self._say(f"WRONG {self.report.wrong[-1]}")

    def _count(self) -> None:
        database = Database.open(self.place.database)
        with database.reading() as c:
            rows = decisions(c, RECIPE)
        database.close()
        report = self.report
        report.decisions, report.promotions = len(rows), sum(row.promoted for row in rows)
        report.answered = len(self.ledger.answered())
        report.unanswered = len(self.ledger.sent) - report.answered

    # -- training -------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """Press Train, from the starter again, unless it was pressed."""
        if self._is_training():
            return
        store = self.place.store
        if store.current(RECIPE).name != self.place.starter:
            database = Database.open(self.place.database)
            roll_back(database, store, RECIPE, self.place.starter, actor="kill test", now=time.time())
            database.close()
        self._moments.training_asked()
        answer = requests.post(
            f"{self._server.url}/train/{RECIPE}", json={"client_id": READERS[0]}, timeout=60
        )
        if not answer.ok:
            self._note("Train was pressed", [answer.text])

    def _is_training(self) -> bool:
        where = f"{self._server.url}/train/"
        return requests.get(where, params={"check_if_running": "true"}, timeout=60).ok

    def _until(self, found: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + CARRIES_ON_WITHIN_S
        while time.monotonic() < deadline:
            if found():
                return
            time.sleep(0.1)
        raise OverreadError(f"waited {CARRIES_ON_WITHIN_S:g} s in vain for {what}")


def orphans(place: Place) -> list[int]:
    """Processes of a dead server of this place that still run."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(word.startswith(str(place.app)) for word in process.info["cmdline"] or ())
    ]


def draw_aims(kills: int, seed: int) -> list[str]:
    """Phases in random order, each as often as the others."""
    rng = np.random.default_rng(seed)
    aims: list[str] = []
    while len(aims) < kills:
        aims += [AIMS[index] for index in rng.permutation(len(AIMS))]
    return aims[:kills]


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, kill, report. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    app = Path(__file__).parents[3] / "apps" / "radiology"
    parser.add_argument("--app", type=Path, default=app, help="folder of our app")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cases", type=int, default=40, help="studies to label")
    parser.add_argument("--work", type=Path, required=True, help="a new folder; stays")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    place = make_place(chosen.app, chosen.work.resolve(), chosen.cases, chosen.seed)
    test = KillTest(place, chosen.seed, lambda sentence: print(sentence, flush=True))
    try:
        test.run(draw_aims(chosen.kills, chosen.seed))
    except OverreadError as error:
        test.report.wrong.append(str(error))
    print(test.report.text(PHASES))
    return 1 if test.report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
