"""A process that scores what is not scored yet, most useful first.

    python -m overread.queue.scorer --database URL --recipe R [--champion FOLDER] --cases FILE.json

`FILE.json` is `{"case": {"image": path, "patient": id}}`; it may be replaced meanwhile and is then read again.
Without a champion, images are only looked at. It ends when all is scored, or when its standard input closes: then
whoever started it is gone. It writes nothing but rows, one transaction a case, so it may be killed at any moment.
For each case it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from overread.domain import OverreadError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_volume
from overread.queue import child
from overread.queue.backlog import Backlog, Done, ScoringProgress, revision_or_missing
from overread.queue.claims import Claims
from overread.queue.scoring import CHAMPION_LENGTH, cold_score, failed_score, score_case
from overread.queue.scoring_order import revisions, scoring_order
from overread.state.database import Database
from overread.state.scores import COLD, ScoreRow, put_score

logger = logging.getLogger(__name__)


class Scorer(Backlog[Path, tuple[str, Path]]):
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
        champion = ensemble.identity[:CHAMPION_LENGTH] if ensemble else COLD
        super().__init__(database, recipe, champion, cases, claims, stopped)
        self._ensemble, self._device = ensemble, device

    def _entry(self, said: Mapping[str, Any]) -> Path:
        return Path(said["image"])

    def _missing(self, entries: Mapping[str, Path]) -> tuple[int, list[tuple[str, Path]]]:
        """Cases without a row of their image's revision, most useful first."""
        with self._database.reading() as c:
            known = revisions(c, self._recipe, self.champion)
            open_ = [case for case, path in entries.items() if known.get(case) != revision_or_missing(path)]
            order = scoring_order(c, self._recipe, self.champion, open_)
            return len(open_), [(case, entries[case]) for case in order]

    def _do(self, job: tuple[str, Path]) -> Done | None:
        case, path = job
        with self._claims.claim(self._recipe, self.champion, case) as mine:
            if not mine:
                return None
            revision = revision_or_missing(path)
            with self._database.reading() as c:
                if revisions(c, self._recipe, self.champion, case).get(case) == revision:
                    return None
                looked_at = revisions(c, self._recipe, COLD, case).get(case) == revision
            rows = self._score(case, path, revision)
            with self._database.writing() as c:
                for row in rows if not looked_at else rows[:1]:
                    put_score(c, row)
            return Done(case, rows[0].took_s, rows[0].error)

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


def main(arguments: list[str] | None = None) -> int:
    """Run the process; 0 when all is scored or nobody listens, 1 with a sentence on standard error otherwise."""
    made = child.parser(
        "overread.queue.scorer",
        (__doc__ or "").split("\n")[0],
        "ensemble folder; images are only looked at without",
        "JSON: case to image and patient",
    )
    return child.run(made, arguments, _score_all)


def _score_all(
    chosen: argparse.Namespace, database: Database, device: torch.device, stopped: threading.Event
) -> Iterator[ScoringProgress]:
    ensemble = load_ensemble(chosen.champion, device) if chosen.champion else None
    claims = Claims.for_database(database.url)
    return Scorer(database, chosen.recipe, ensemble, chosen.cases, claims, stopped, device).run()


if __name__ == "__main__":
    sys.exit(main())
