"""Keeps the background scoring going: one child process, for the champion in service, over the cases there are."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
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


class Scoring:
    """The scoring child and what it should be doing. `look` is called again and again, by one thread.

    Args:
        folder: where the list of cases is kept for the child.
        program: the child's module.
        further: arguments that this program wants beside the ones of every scorer.
    """

    def __init__(
        self,
        store: GuardedStore,
        models: ServedModels,
        children: Children,
        folder: Path,
        program: str = PROGRAM,
        further: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._store, self._models, self._children = store, models, children
        self._program, self._further = program, further
        self._cases = Path(folder) / CASES
        self._listed: dict[str, dict[str, str]] = {}
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
        if idle and self._done < self._wanted and self._listed and time.monotonic() >= self._not_before:
            self._started = self._wanted
            self._children.start(CHILD, self._program, self._arguments(recipe), self._ended)

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
            **self._further,
        }
        # The recipe may be empty: images are looked at before there is a model.
        return [part for key, value in said.items() if value or key == "--recipe" for part in (key, value)]

    def _list_cases(self) -> None:
        is_due = time.monotonic() - self._revisions_at > REVISIONS_EVERY_S
        if not is_due and set(self._store.list_images()) == self._listed.keys():
            return
        self._revisions_at = time.monotonic()
        listed, revisions = {}, {}
        for case, path in self._store.image_files().items():
            with suppress(NotFoundError):
                revisions[case] = revision_of(path)
                listed[case] = {"image": str(path), "patient": self._store.patient_of(case)}
        if listed != self._listed or revisions != self._revisions:
            self._write(listed)
            self._listed, self._revisions = listed, revisions
            self._wanted += 1

    def _write(self, listed: dict[str, dict[str, str]]) -> None:
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
