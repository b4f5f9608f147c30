"""A process that looks at slides that were not looked at yet, most useful first.

    python -m overread.queue.patches.scorer --database URL --recipe R --champion FOLDER --cases FILE.json --maps FOLDER

`FILE.json` is `{"slide": {"image": path, "patient": id, "wanted": seconds}}`; `wanted` may be left out and says when a
reader last asked about the slide. The file may be replaced meanwhile and is then read again. Slides that a reader asked
about come first, the last one at once; then every slide gets a first look of a few seconds; then a close one,
the most doubtful first. It may be killed at any moment: what was done is kept every half minute and is not done again.
It ends when all is scored, or when its standard input closes. For each slide and look it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import Connection, select

from overread.domain import BadInputError, OverreadError, PixelSize
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.glance import glance
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import ASSUMED, open_slide
from overread.imaging.slides.tissue import find_tissue
from overread.queue import child
from overread.queue.backlog import Backlog, Done, ScoringProgress, revision_or_missing
from overread.queue.claims import Claims
from overread.queue.patches.files import SlideFiles, SlideState, slide_folder
from overread.queue.patches.looking import CloseLook
from overread.queue.patches.scores import disagreement, slide_doubt
from overread.queue.scoring import CHAMPION_LENGTH, failed_score
from overread.queue.scoring_order import revisions, scoring_order
from overread.state.database import Database
from overread.state.schema import SCORES
from overread.state.scores import ScoreRow, put_score

logger = logging.getLogger(__name__)

# For the first look at a slide.
GLANCE_S = 5.0
# What a close look has done is kept this often, but writing takes no more than a fifth of the time.
KEEP_EVERY_S, KEEPING_SHARE = 30.0, 0.2
THUMBNAIL_PX = 1024


@dataclass(frozen=True)
class SlideCase:
    """What the list says of a slide.

    Attributes:
        path: its file.
        wanted: when a reader last asked about it, in seconds since 1970; 0 for never.
    """

    path: Path
    wanted: float = 0.0


@dataclass(frozen=True)
class Look:
    """One piece of work.

    Attributes:
        slide: its id.
        case: what the list says of it.
        is_close: not just the first look.
    """

    slide: str
    case: SlideCase
    is_close: bool


class ElsewhereError(Exception):
    """A reader waits for another slide."""


class SlideScorer(Backlog[SlideCase, Look]):
    """Looks at the slides of a file for one champion.

    Args:
        cases: the file, see above.
        maps: folder below which the slides' files lie, see `patches/files.py`.
        stopped: set when it shall end, within one batch of windows.
        device: where the ensemble's weights are.
        options: of the close look.
        assumed: pixel size of slides that do not tell theirs.
        keep_every_s: what was done is kept this often.
    """

    def __init__(
        self,
        database: Database,
        recipe: str,
        ensemble: Ensemble,
        cases: Path,
        maps: Path,
        claims: Claims,
        stopped: threading.Event,
        device: torch.device | str = "cpu",
        options: SlideOptions = SlideOptions(),
        keep_every_s: float = KEEP_EVERY_S,
        assumed: PixelSize = ASSUMED,
    ) -> None:
        super().__init__(database, recipe, ensemble.identity[:CHAMPION_LENGTH], cases, claims, stopped)
        self._ensemble, self._maps, self._device = ensemble, Path(maps), device
        self._options, self._keep_every_s, self._assumed = options, keep_every_s, assumed

    def files(self, slide: str) -> SlideFiles:
        """Where the slide's maps lie."""
        return SlideFiles(slide_folder(self._maps, self._recipe, self.champion, slide))

    def _entry(self, said: Mapping[str, Any]) -> SlideCase:
        return SlideCase(Path(said["image"]), float(said.get("wanted") or 0))

    def _missing(self, entries: Mapping[str, SlideCase]) -> tuple[int, list[Look]]:
        with self._database.reading() as c:
            known = revisions(c, self._recipe, self.champion)
            failed = _failed(c, self._recipe, self.champion)
        states: dict[str, SlideState | None] = {}
        for slide, case in entries.items():
            revision = revision_or_missing(case.path)
            state = self.files(slide).state(revision)
            has_row = known.get(slide) == revision
            if not has_row or (slide not in failed and not (state and state.is_complete)):
                states[slide] = state
        wanted = sorted(
            (slide for slide in states if entries[slide].wanted), key=lambda s: -entries[s].wanted
        )
        close = [Look(slide, entries[slide], True) for slide in wanted]
        unseen = [slide for slide, state in states.items() if state is None and not entries[slide].wanted]
        if unseen:
            # After them is the time to compare.
            with self._database.reading() as c:
                order = scoring_order(c, self._recipe, self.champion, unseen)
            return len(states), close + [Look(slide, entries[slide], False) for slide in order]
        others = {slide: state for slide, state in states.items() if state and not entries[slide].wanted}
        by_doubt = sorted(
            others, key=lambda slide: (others[slide].rows_done == 0, -(others[slide].doubt or 0))
        )
        return len(states), close + [Look(slide, entries[slide], True) for slide in by_doubt]

    def _do(self, job: Look) -> Done | None:
        with self._claims.claim(self._recipe, self.champion, job.slide) as mine:
            if not mine:
                return None
            revision, files = revision_or_missing(job.case.path), self.files(job.slide)
            state = files.state(revision)
            if (
                state is not None
                and (state.is_complete if job.is_close else True)
                and self._has_row(job, revision)
            ):
                return None
            started = time.perf_counter()
            try:
                state = self._first_look(job, files, revision) if state is None else state
                if not job.is_close:
                    return Done(job.slide, time.perf_counter() - started, is_scored=False)
                row = self._close_look(job, files, state)
            except ElsewhereError:
                return None
            except (OverreadError, MemoryError, RuntimeError) as error:
                # torch raises RuntimeError where memory runs out or a kernel refuses a shape.
                logger.warning("slide %s cannot be scored: %s", job.slide, error)
                took_s = time.perf_counter() - started
                row = failed_score(
                    self._recipe, self.champion, job.slide, revision, str(error), took_s, time.time()
                )
            row = replace(row, took_s=time.perf_counter() - started)
            with self._database.writing() as c:
                put_score(c, row)
            return Done(job.slide, row.took_s, row.error)

    def _first_look(self, job: Look, files: SlideFiles, revision: str) -> SlideState:
        with open_slide(job.case.path, self._assumed) as slide:
            # The same slide begins at the same window.
            rng = np.random.default_rng(zlib.crc32(job.slide.encode()))
            maps = glance(self._ensemble, slide, find_tissue(slide), GLANCE_S, rng, self._device)
        state = SlideState(revision, doubt=slide_doubt(job.slide, maps)[0])
        files.write(maps, state)
        self._wait(0)
        return state

    def _close_look(self, job: Look, files: SlideFiles, state: SlideState) -> ScoreRow:
        maps = files.read()
        if maps is None:
            state = self._first_look(job, files, state.revision)
            maps = SlideMaps.load(files.maps)
        look = CloseLook(maps, state.rows_done)
        keeper = _Keeper(look, files, state, self._keep_every_s)

        def progress(_: float) -> None:
            self._wait(0)
            if self._is_wanted_elsewhere(job):
                raise ElsewhereError
            keeper.keep_if_due()

        with open_slide(job.case.path, self._assumed) as slide:
            try:
                look.look(self._ensemble, slide, self._options, self._device, progress)
            except BaseException:
                keeper.keep()
                raise
            files.write_pictures(maps, slide.thumbnail(THUMBNAIL_PX))
        doubt, class_doubt, area_mm2 = slide_doubt(job.slide, maps)
        files.write(maps, SlideState(state.revision, look.rows_done, True, doubt))
        return ScoreRow(
            recipe=self._recipe,
            champion=self.champion,
            case_id=job.slide,
            revision=state.revision,
            doubt=doubt if doubt is not None else 0.0,
            # Draws of one network differ by style, which is no fault.
            quality=disagreement(maps)
            if len(maps.sizes) > 1 and not self._ensemble.differ_by_style
            else None,
            class_doubt=class_doubt,
            foreground_mm3=area_mm2,
            features=(),
            took_s=0.0,
            error=None,
            scored_at=time.time(),
        )

    def _is_wanted_elsewhere(self, job: Look) -> bool:
        """Whether a reader has turned to another slide that is not scored."""
        if not self._is_replaced(self._version_read):
            return False
        _, entries = self._read_cases()
        _, jobs = self._missing(entries)
        return bool(jobs) and jobs[0].case.wanted > 0 and jobs[0].slide != job.slide

    def _has_row(self, job: Look, revision: str) -> bool:
        with self._database.reading() as c:
            return revisions(c, self._recipe, self.champion, job.slide).get(job.slide) == revision

    def _forget_all_but(self, champions: list[str]) -> None:
        folder = self._maps / self._recipe
        for found in folder.iterdir() if folder.is_dir() else ():
            if found.is_dir() and found.name not in champions:
                shutil.rmtree(found, ignore_errors=True)


class _Keeper:
    """Writes down what a close look has done, now and then."""

    def __init__(self, look: CloseLook, files: SlideFiles, state: SlideState, every_s: float) -> None:
        self._look, self._files, self._state, self._every_s = look, files, state, every_s
        self._due = time.monotonic() + every_s

    def keep_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.keep()

    def keep(self) -> None:
        started = time.monotonic()
        before = self._look.rows_done
        self._look.take()
        if self._look.rows_done > before:
            self._files.write(self._look.maps, replace(self._state, rows_done=self._look.rows_done))
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - started) / KEEPING_SHARE)


def main(arguments: list[str] | None = None) -> int:
    """Run the process; 0 when all is scored or nobody listens, 1 with a sentence on standard error otherwise."""
    made = child.parser(
        "overread.queue.patches.scorer",
        (__doc__ or "").split("\n")[0],
        "ensemble folder",
        "JSON: slide to image, patient and when a reader asked about it",
    )
    made.add_argument("--maps", required=True, type=Path, help="folder in which the slides' maps are kept")
    made.add_argument(
        "--batch", type=int, default=SlideOptions.batch, help="windows that a member sees at a time"
    )
    made.add_argument("--workers", type=int, default=SlideOptions.workers, help="threads that read a slide")
    made.add_argument("--cascade", type=float, help="the members' threshold; all are asked if not given")
    made.add_argument(
        "--um-per-px", type=float, default=ASSUMED.um, help="of slides that do not tell theirs, in µm"
    )
    return child.run(made, arguments, _score_all)


def _score_all(
    chosen: argparse.Namespace, database: Database, device: torch.device, stopped: threading.Event
) -> Iterator[ScoringProgress]:
    if chosen.champion is None:
        raise BadInputError("without a champion there is nothing to say about slides; give --champion")
    ensemble = load_ensemble(chosen.champion, device)
    claims = Claims.for_database(database.url)
    options = SlideOptions(batch=chosen.batch, workers=chosen.workers, cascade=chosen.cascade)
    return SlideScorer(
        database,
        chosen.recipe,
        ensemble,
        chosen.cases,
        chosen.maps,
        claims,
        stopped,
        device,
        options,
        assumed=PixelSize(chosen.um_per_px),
    ).run()


def _failed(c: Connection, recipe: str, champion: str) -> set[str]:
    wanted = select(SCORES.c.case_id).where(
        SCORES.c.recipe == recipe, SCORES.c.champion == champion, SCORES.c.error.is_not(None)
    )
    return set(c.execute(wanted).scalars())


if __name__ == "__main__":
    sys.exit(main())
