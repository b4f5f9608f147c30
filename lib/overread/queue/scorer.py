"""A process that scores what is not scored yet, most useful first.

    python -m overread.queue.scorer --database URL --recipe R [--champion FOLDER] --cases FILE.json

`FILE.json` is `{"case": {"image": path, "patient": id}}`; it may be replaced meanwhile and is then read again.
Without a champion, images are only looked at. It ends when all is scored, or when its standard input closes: then
whoever started it is gone. It writes nothing but rows, one transaction a case, so it may be killed at any moment.
For each case it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.ensemble.compute import choose_device, leave_a_core
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_volume
from overread.queue.claims import Claims
from overread.queue.scoring import CHAMPION_LENGTH, cold_score, failed_score, revision_of, score_case
from overread.queue.scoring_order import champions_scored, revisions, scoring_order
from overread.state.database import DATABASE_VARIABLE, Database
from overread.state.scores import COLD, ScoreRow, forget_scores, put_score

logger = logging.getLogger(__name__)

# Scoring gives way to whoever waits for an answer.
NICENESS = 15
# Revision of an image that is not there; it is tried again once it is.
MISSING = "missing"
# Scores of so many champions are kept: the order of scoring and the stop signal look back.
KEPT_CHAMPIONS = 3
# Where another scorer holds all cases that remain, look again after this time.
PATIENCE_S = 0.5


class StoppedError(Exception):
    """Nobody needs the scores any more."""


@dataclass(frozen=True)
class ScoringProgress:
    """How far scoring has come.

    Attributes:
        recipe: the model's name.
        champion: whose scores; empty where images are only looked at.
        case: scored last.
        error: why that could not be scored; None where it could.
        done: cases that have their row.
        total: cases in all.
        seconds_left: at the pace so far.
    """

    recipe: str
    champion: str
    case: str
    error: str | None
    done: int
    total: int
    seconds_left: float


class Scorer:
    """Scores the cases of a file for one champion.

    Args:
        ensemble: None where images are only looked at.
        cases: the file, see above.
        stopped: set when it shall end, within one window of the current case.
        device: where the ensemble's weights are.
    """

    def __init__(
        self,
        database: Database,
        recipe: str,
        ensemble: Ensemble | None,
        cases: Path,
        claims: Claims,
        stopped: threading.Event,
        device: torch.device | str = "cpu",
    ) -> None:
        self._database, self._recipe, self._ensemble, self._cases = database, recipe, ensemble, cases
        self._claims, self._stopped, self._device = claims, stopped, device
        self.champion = ensemble.identity[:CHAMPION_LENGTH] if ensemble else COLD

    def run(self) -> Iterator[ScoringProgress]:
        """Score until nothing is missing, yielding after each case.

        Raises:
            StoppedError: `stopped` was set. BadInputError: the file of cases is damaged.
        """
        pace_s: float | None = None
        while True:
            version, images = self._read_cases()
            missing = self._missing(images)
            if not missing:
                break
            done, scored = len(images) - len(missing), 0
            for case, path in missing:
                row = self._claimed(case, path)
                if row is None:
                    continue
                scored += 1
                pace_s = row.took_s if pace_s is None else 0.8 * pace_s + 0.2 * row.took_s
                left = (len(images) - done - scored) * pace_s
                yield ScoringProgress(
                    self._recipe, self.champion, case, row.error, done + scored, len(images), round(left, 1)
                )
                if version != _version(self._cases):
                    break
            if scored == 0 and version == _version(self._cases):
                self._wait(PATIENCE_S)
        if self._ensemble:
            with self._database.writing() as c:
                forget_scores(
                    c, self._recipe, [COLD, *self._worth_keeping(champions_scored(c, self._recipe))]
                )

    def _worth_keeping(self, newest_first: list[str]) -> list[str]:
        return [self.champion, *(name for name in newest_first if name != self.champion)][:KEPT_CHAMPIONS]

    def _missing(self, images: Mapping[str, Path]) -> list[tuple[str, Path]]:
        """Cases without a row of their image's revision, most useful first."""
        with self._database.reading() as c:
            known = revisions(c, self._recipe, self.champion)
            open_ = [case for case, path in images.items() if known.get(case) != _revision(path)]
            return [(case, images[case]) for case in scoring_order(c, self._recipe, self.champion, open_)]

    def _claimed(self, case: str, path: Path) -> ScoreRow | None:
        """Score a case, unless another scorer is at it or has done it."""
        with self._claims.claim(self._recipe, self.champion, case) as mine:
            if not mine:
                return None
            revision = _revision(path)
            with self._database.reading() as c:
                if revisions(c, self._recipe, self.champion, case).get(case) == revision:
                    return None
                looked_at = revisions(c, self._recipe, COLD, case).get(case) == revision
            rows = self._score(case, path, revision)
            with self._database.writing() as c:
                for row in rows if not looked_at else rows[:1]:
                    put_score(c, row)
            return rows[0]

    def _score(self, case: str, path: Path, revision: str) -> list[ScoreRow]:
        """The case's row, and the row without a champion that keeps the image's features for champions to come."""
        started, now = time.perf_counter(), time.time()
        try:
            volume = read_volume([path])
            if self._ensemble is None:
                return [cold_score(volume, self._recipe, case, revision, now)]
            row = score_case(
                self._ensemble,
                volume,
                self._recipe,
                case,
                revision,
                now,
                self._device,
                progress=lambda share: self._wait(0),
            )
            return [row, cold_score(volume, self._recipe, case, revision, now)]
        except (OverreadError, MemoryError, RuntimeError) as error:
            # torch raises RuntimeError where memory runs out or a kernel refuses a shape.
            logger.warning("case %s cannot be scored: %s", case, error)
            took_s = time.perf_counter() - started
            return [failed_score(self._recipe, self.champion, case, revision, str(error), took_s, now)]

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise StoppedError

    def _read_cases(self) -> tuple[object, dict[str, Path]]:
        version = _version(self._cases)
        try:
            entries = json.loads(self._cases.read_text())
            return version, {case: Path(entry["image"]) for case, entry in entries.items()}
        except OSError as error:
            raise NotFoundError(
                f"the list of cases {self._cases} cannot be read: {error.strerror}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(
                f'{self._cases} is no list of cases: {error!r}; expected {{"case": {{"image": path, "patient": id}}}}'
            ) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the process; 0 when all is scored or nobody listens, 1 with a sentence on standard error otherwise."""
    parser = argparse.ArgumentParser(prog="overread.queue.scorer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--database",
        default=os.environ.get(DATABASE_VARIABLE),
        help=f"file or URL; {DATABASE_VARIABLE} if not given",
    )
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--champion", type=Path, help="ensemble folder; images are only looked at without")
    parser.add_argument("--cases", required=True, type=Path, help="JSON: case to image and patient")
    parser.add_argument("--progress", type=Path, help="keep the latest progress in this file as well")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="all cores but one if not given")
    chosen = parser.parse_args(arguments)
    if not chosen.database:
        parser.error(f"give --database, or set {DATABASE_VARIABLE}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.nice(NICENESS)
    leave_a_core(chosen.threads)
    stopped = threading.Event()
    threading.Thread(target=_watch_input, args=(stopped,), daemon=True).start()
    database: Database | None = None
    try:
        database = Database.open(chosen.database)
        device = choose_device(chosen.device)
        ensemble = load_ensemble(chosen.champion, device) if chosen.champion else None
        scorer = Scorer(
            database,
            chosen.recipe,
            ensemble,
            chosen.cases,
            Claims.for_database(database.url),
            stopped,
            device,
        )
        for progress in scorer.run():
            _report(progress, chosen.progress)
    except (StoppedError, BrokenPipeError):
        # Python would complain once more about the closed pipe when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OverreadError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if database is not None:
            database.close()
    return 0


def _report(progress: ScoringProgress, file: Path | None) -> None:
    line = json.dumps(progress.__dict__)
    print(line, flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_text(line + "\n")
        beside.replace(file)


def _watch_input(stopped: threading.Event) -> None:
    # Only the end of the stream means something; without a stream nobody listens either.
    while sys.stdin is not None and os.read(sys.stdin.fileno(), 4096):
        pass
    stopped.set()


def _revision(path: Path) -> str:
    try:
        return revision_of(path)
    except NotFoundError:
        return MISSING


def _version(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


if __name__ == "__main__":
    sys.exit(main())
