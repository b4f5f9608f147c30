"""Work through what has no score yet, most useful first, until nothing is missing."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from overread.domain import BadInputError, NotFoundError
from overread.queue.claims import Claims
from overread.queue.scoring import revision_of
from overread.queue.scoring_order import champions_scored
from overread.state.database import Database
from overread.state.scores import COLD, forget_scores

# Revision of an image that is not there; it is tried again once it is.
MISSING = "missing"
# Scores of so many champions are kept: the order of scoring and the stop signal look back.
KEPT_CHAMPIONS = 3
# Where another process holds all that remains, look again after this time.
PATIENCE_S = 0.5
# Of the time that a case took, the newest counts this much for the pace.
NEWEST_SHARE = 0.2

E = TypeVar("E")
J = TypeVar("J")


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


@dataclass(frozen=True)
class Done:
    """One piece of work that was just done.

    Attributes:
        case: of which case.
        took_s: time.
        error: why it was in vain; None where it was not.
        is_scored: the case has its row now.
    """

    case: str
    took_s: float
    error: str | None = None
    is_scored: bool = True


class Backlog(ABC, Generic[E, J]):
    """The cases of a file that wait for one champion's score. E is what the file says of a case, J a piece of work.

    Args:
        cases: JSON, `{"case": {"image": path, …}}`; it may be replaced meanwhile and is then read again.
        stopped: set when it shall end.
    """

    def __init__(
        self,
        database: Database,
        recipe: str,
        champion: str,
        cases: Path,
        claims: Claims,
        stopped: threading.Event,
    ) -> None:
        self._database, self._recipe, self._cases = database, recipe, cases
        self._claims, self._stopped = claims, stopped
        self.champion = champion
        self._version_read: object = None

    @abstractmethod
    def _entry(self, said: Mapping[str, Any]) -> E:
        """What the file says of one case; KeyError and TypeError where that is none."""

    @abstractmethod
    def _missing(self, entries: Mapping[str, E]) -> tuple[int, list[J]]:
        """How many cases have no score, and what to do about them next, most useful first."""

    @abstractmethod
    def _do(self, job: J) -> Done | None:
        """Do it, unless another process is at it or has done it: None."""

    def run(self) -> Iterator[ScoringProgress]:
        """Score until nothing is missing, yielding after each case.

        Raises:
            StoppedError: `stopped` was set. BadInputError: the file of cases is damaged.
        """
        pace_s: float | None = None
        while True:
            version, entries = self._read_cases()
            missing, jobs = self._missing(entries)
            if not missing:
                break
            done, worked = len(entries) - missing, 0
            for job in jobs:
                found = self._do(job)
                if found is None and not self._is_replaced(version):
                    continue
                if found is not None:
                    worked += 1
                    done += found.is_scored
                    if found.is_scored:
                        pace_s = found.took_s if pace_s is None else _mixed(pace_s, found.took_s)
                    left = (len(entries) - done) * (pace_s or 0.0)
                    yield ScoringProgress(
                        self._recipe,
                        self.champion,
                        found.case,
                        found.error,
                        done,
                        len(entries),
                        round(left, 1),
                    )
                if self._is_replaced(version):
                    break
            if worked == 0 and not self._is_replaced(version):
                self._wait(PATIENCE_S)
        if self.champion != COLD:
            with self._database.writing() as c:
                kept = self._worth_keeping(champions_scored(c, self._recipe))
                forget_scores(c, self._recipe, [COLD, *kept])
            self._forget_all_but(kept)

    def _forget_all_but(self, champions: list[str]) -> None:
        """Let go of what is kept beside the rows of champions that nobody looks back to any more."""

    def _worth_keeping(self, newest_first: list[str]) -> list[str]:
        return [self.champion, *(name for name in newest_first if name != self.champion)][:KEPT_CHAMPIONS]

    def _is_replaced(self, version: object) -> bool:
        return version != _version(self._cases)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise StoppedError

    def _read_cases(self) -> tuple[object, dict[str, E]]:
        version = self._version_read = _version(self._cases)
        try:
            entries = json.loads(self._cases.read_text())
            return version, {case: self._entry(said) for case, said in entries.items()}
        except OSError as error:
            raise NotFoundError(
                f"the list of cases {self._cases} cannot be read: {error.strerror}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(
                f'{self._cases} is no list of cases: {error!r}; expected {{"case": {{"image": path, "patient": id}}}}'
            ) from error


def revision_or_missing(path: Path) -> str:
    """The file's revision; `MISSING` where it is not there."""
    try:
        return revision_of(path)
    except NotFoundError:
        return MISSING


def _mixed(pace_s: float, newest_s: float) -> float:
    return (1 - NEWEST_SHARE) * pace_s + NEWEST_SHARE * newest_s


def _version(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
