"""Keeps the background scoring going: one child process, for the champion in service, over the cases there are."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overread.domain import NotFoundError
from overread.queue.scoring import revision_of
from overread.server.children import Children, Ending
from overread.server.models import ServedModels
from overread.server.store import GuardedStore

logger = logging.getLogger(__name__)

CHILD = "scoring"
PROGRAM = "overread.queue.scorer"
CASES, PROGRESS = "cases.json", "progress.json"
# The folder is asked this often whether an image was replaced under its name.
REVISIONS_EVERY_S = 120
# After a failure the child starts again; each further one doubles the wait.
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 600.0


@dataclass(frozen=True)
class Scorer:
    """A program that scores.

    Attributes:
        program: its module.
        needs_champion: whether it has nothing to do without one.
        further: from the recipe to arguments that it wants beside those of every scorer.
        wanted: when readers asked about cases, in seconds since 1970, for a program that begins with the last one.
    """

    program: str
    needs_champion: bool = False
    further: Callable[[str], Mapping[str, str]] = lambda recipe: {}
    wanted: Callable[[], Mapping[str, float]] = dict


class Scoring:
    """The scoring child and what it should be doing. `look` is called again and again, by one thread.

    Args:
        folder: where the list of cases is kept for the child.
        scorer: the child; the one for volumes if None.
    """

    def __init__(
        self,
        store: GuardedStore,
        models: ServedModels,
        children: Children,
        folder: Path,
        scorer: Scorer | None = None,
    ) -> None:
        self._store, self._models, self._children = store, models, children
        self._scorer = scorer or Scorer(PROGRAM)
        self._cases = Path(folder) / CASES
        self._listed: dict[str, dict[str, Any]] = {}
        self._wished: dict[str, float] = {}
        self._revisions: dict[str, str] = {}
        self._revisions_at = float("-inf")
        self._subject: tuple[str, str] | None = None
        # What is asked for, and what the last child that finished had been asked for.
        self._wanted, self._started, self._done = 0, 0, 0
        self._failures, self._not_before = 0, 0.0
        self._trouble = ""

    def look(self) -> None:
        """Notice new images and champions, and start the child where there is something to score."""
        recipe = self._models.queued()
        subject = (recipe, self._models.scored_as(recipe))
        if subject != self._subject:
            self._children.stop(CHILD)
            self._subject, self._failures, self._not_before = subject, 0, 0.0
            self._wanted += 1
        self._list_cases()
        idle = not self._children.running(CHILD)
        is_due = self._done < self._wanted and time.monotonic() >= self._not_before
        if idle and is_due and self._listed and (recipe or not self._scorer.needs_champion):
            self._started = self._wanted
            self._children.start(CHILD, self._scorer.program, self._arguments(recipe), self._ended)

    @property
    def trouble(self) -> str:
        """Why the child ended last time, in words; empty where it did its work."""
        return self._trouble

    def state(self) -> dict[str, Any]:
        """For `/info/`: whether scoring runs, and what went wrong."""
        return {
            "running": self._children.running(CHILD),
            "pid": self._children.pid(CHILD),
            "trouble": self._trouble,
        }

    def _arguments(self, recipe: str) -> list[str]:
        said = {
            "--recipe": recipe,
            "--champion": str(self._models.current(recipe)) if recipe else "",
            "--cases": str(self._cases),
            "--progress": str(self._cases.with_name(PROGRESS)),
            "--device": str(self._models.device),
            "--threads": str(self._models.settings.threads or ""),
            **self._scorer.further(recipe),
        }
        # The recipe may be empty: images are looked at before there is a model.
        return [part for key, value in said.items() if value or key == "--recipe" for part in (key, value)]

    def _list_cases(self) -> None:
        is_due = time.monotonic() - self._revisions_at > REVISIONS_EVERY_S
        wanted = dict(self._scorer.wanted())
        if not is_due and set(self._store.list_images()) == self._listed.keys() and wanted == self._wished:
            return
        self._wished = wanted
        self._revisions_at = time.monotonic()
        listed: dict[str, dict[str, Any]] = {}
        revisions: dict[str, str] = {}
        for case, path in self._store.image_files().items():
            with suppress(NotFoundError):
                revisions[case] = revision_of(path)
                listed[case] = {"image": str(path), "patient": self._store.patient_of(case)}
                if case in wanted:
                    listed[case]["wanted"] = wanted[case]
        if listed != self._listed or revisions != self._revisions:
            self._write(listed)
            self._listed, self._revisions = listed, revisions
            self._wanted += 1

    def _write(self, listed: dict[str, dict[str, Any]]) -> None:
        self._cases.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._cases.with_name(f".{self._cases.name}.new")
        temporary.write_text(json.dumps(listed))
        temporary.replace(self._cases)

    def _ended(self, ending: Ending) -> None:
        if ending.wanted:
            return
        if ending.code == 0:
            self._done, self._failures, self._trouble = self._started, 0, ""
            return
        self._failures += 1
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self._failures - 1))
        self._not_before = time.monotonic() + wait
        self._trouble = f"{ending.words}; it starts again after {wait:.0f} s"
