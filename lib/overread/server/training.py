"""Training over HTTP: MONAI Label's `/train/` addresses in front of a child process of ours.

A request is a file, `<folder>/<recipe>/request.json`, until its cycle has ended: where the server or the trainer was
killed in between, the next one carries on. What the trainer says meanwhile is `progress.json` beside it.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.learning.central import read_central
from overread.learning.gate import GateOptions
from overread.learning.process import FAILED, INTERRUPTED, PROGRESS, REQUEST
from overread.learning.training_set import ensure_retrainable
from overread.server.children import Children, Ending
from overread.server.models import ServedModels
from overread.server.settings import CONSENSUSES, STARTS, Settings
from overread.state.audit import append, newest
from overread.state.database import Database
from overread.state.decisions import DecisionRow, decisions
from overread.state.labels import ACCEPTED, APPROVED, labels

logger = logging.getLogger(__name__)

CHILD = "training"
PROGRAM = "overread.learning.process"
# A trainer that is killed starts again from its last checkpoint, this many times.
MOST_RESTARTS = 3
# Training time that the trainer decides.
AUTO = "auto"
# Keys of a request that name no option.
NO_OPTIONS = frozenset({"client_id", "model"})
SUBMITTED, RUNNING, DONE, ERROR, STOPPED = "SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"


class TrainingRunsError(OverreadError):
    """One training at a time (HTTP 429)."""


@dataclass
class Task:
    """One request to train, as MONAI Label's clients see it."""

    id: str
    recipe: str
    request: dict[str, Any]
    status: str = SUBMITTED
    start_ts: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    end_ts: str | None = None
    notes: list[str] = field(default_factory=list)
    restarts: int = 0

    def end(self, status: str, note: str) -> None:
        """Nothing more will happen."""
        self.status, self.end_ts = status, time.strftime("%Y-%m-%d %H:%M:%S")
        self.notes.append(note)


class Trainer:
    """One recipe's trainer, as MONAI Label lists it."""

    def __init__(self, training: Training, recipe: str) -> None:
        self._training, self._recipe = training, recipe

    def info(self) -> dict[str, Any]:
        """What clients show; the first entry of a list is the default."""
        return {
            "description": "All members learn from the accepted labels and from central cases again; "
            "the result is served only if it passes the gate.",
            "config": self._training.config(),
        }

    def stats(self) -> dict[str, Any]:
        """How far training is, and what the last decision was."""
        return self._training.stats(self._recipe)


class Training:
    """Trains one recipe at a time.

    Args:
        folder: one folder per recipe with its request, progress and work.
        studies: folder of the images.
    """

    def __init__(
        self,
        models: ServedModels,
        database: Database,
        children: Children,
        settings: Settings,
        folder: Path,
        studies: Path,
    ) -> None:
        self._models, self._database, self._children = models, database, children
        self._settings = settings
        self._folder, self._studies = Path(folder), Path(studies)
        self._guard = threading.RLock()
        self._tasks: list[Task] = []
        self._waiting: deque[Task] = deque()
        self._current: Task | None = None
        self._decisions: dict[str, DecisionRow] = {}
        self._refused_at: dict[str, int] = {}

    def trainers(self) -> dict[str, Trainer]:
        """The served models that can be trained here."""
        return {name: Trainer(self, name) for name in self._models.names() if self._refusal(name) is None}

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table."""
        return {
            "start": [self._settings.train_start, *(s for s in STARTS if s != self._settings.train_start)],
            "minutes": AUTO if self._settings.train_minutes is None else str(self._settings.train_minutes),
            "consensus": [
                self._settings.consensus,
                *(name for name in CONSENSUSES if name != self._settings.consensus),
            ],
        }

    def start(self, recipe: str, wishes: Mapping[str, Any], by: str, enqueue: bool = False) -> dict[str, Any]:
        """Have a challenger trained. Returns the task.

        Args:
            wishes: options of `config`, as sent.
            by: who asks.
            enqueue: wait where another training runs.

        Raises:
            NotFoundError: no such model. BadInputError: it cannot be trained here, or an option cannot be meant.
            TrainingRunsError: another training runs.
        """
        options = self._options(wishes)
        self._check(recipe)
        with self._guard:
            if not enqueue and self._current is not None:
                raise TrainingRunsError(
                    f"{self._current.recipe} is being trained; stop that (DELETE /train/) or wait for it"
                )
            if any(task.recipe == recipe for task in (self._current, *self._waiting) if task is not None):
                raise TrainingRunsError(f"{recipe} is being trained, or waits for its turn")
            request = options | {
                "model": recipe,
                "id": str(uuid.uuid4()),
                "by": by,
                "requested_at": time.time(),
            }
            self._write(recipe, request)
            with self._database.writing() as c:
                append(
                    c,
                    actor=by,
                    action="training started",
                    subject=recipe,
                    details=options,
                    now=request["requested_at"],
                )
            task = self._enter(recipe, request)
            self._next()
            return self._shown(task)

    def carry_on(self) -> None:
        """Take up what a server before this one left unfinished."""
        left = []
        for path in self._folder.glob(f"*/{REQUEST}"):
            request = read_json(path)
            if path.parent.name in self.trainers() and request is not None:
                left.append(request | {"model": path.parent.name})
            else:
                logger.warning("%s cannot be carried on and is set aside", path)
                path.replace(path.with_name(f"{REQUEST}.left"))
        with self._guard:
            for request in sorted(left, key=lambda request: float(request.get("requested_at") or 0)):
                task = self._enter(request["model"], request)
                task.notes.append("carried on after the server had ended")
                logger.info("Training of %s is carried on", task.recipe)
            self._next()

    def status(self, everything: bool = False, if_running: bool = False) -> Any:
        """The task that was asked for last, or all of them, or the one that runs.

        Raises:
            NotFoundError: there is none.
        """
        with self._guard:
            if if_running:
                if self._current is None:
                    raise NotFoundError("No Train Tasks are currently Running")
                return self._shown(self._current)
            if not self._tasks:
                raise NotFoundError("No Train Tasks Found")
            return [self._shown(t) for t in self._tasks] if everything else self._shown(self._tasks[-1])

    def stop(self, by: str) -> dict[str, Any] | None:
        """Stop training, and drop what waits. Returns the task that ran, or None where none did."""
        with self._guard:
            task = self._current
            for waiting in self._waiting:
                self._forget(waiting)
                waiting.end(STOPPED, "stopped before its turn came")
            self._waiting.clear()
            if task is None:
                return None
            task.status = STOPPED
            self._forget(task)
            with self._database.writing() as c:
                append(
                    c, actor=by, action="training stopped", subject=task.recipe, details={}, now=time.time()
                )
        self._children.stop(CHILD)
        return self._shown(task)

    @property
    def trouble(self) -> str:
        """Why the training that was asked for last failed, in words; empty where it did not."""
        with self._guard:
            last = self._tasks[-1] if self._tasks else None
            if last is None or last.status != ERROR:
                return ""
            return f"training of {last.recipe} failed: {last.notes[-1]}"

    def look(self) -> None:
        """Read the newest decisions, and start by itself after so many labels; called again and again."""
        with self._database.reading() as c:
            newest_first = {decision.recipe: decision for decision in decisions(c)}
        self._decisions = newest_first
        if self._settings.train_after is None or self._current is not None:
            return
        for recipe in self.trainers():
            fresh = self._labels_since_training(recipe)
            if fresh < self._settings.train_after or self._refused_at.get(recipe) == fresh:
                continue
            try:
                self.start(recipe, {}, by="overread")
                return
            except OverreadError as error:
                self._refused_at[recipe] = fresh
                logger.warning("After %d labels %s should be trained: %s", fresh, recipe, error)

    def stats(self, recipe: str) -> dict[str, Any]:
        """What viewers' bars show; all numbers finite, whatever the trainer wrote."""
        progress = read_json(self._folder / recipe / PROGRESS) or {}
        current = self._current
        runs = current is not None and current.recipe == recipe
        decision = self._decisions.get(recipe)
        return {
            "epoch": int(number(progress.get("epoch"))),
            "total_epochs": max(1, int(number(progress.get("total_epochs"), 1))),
            # 3D Slicer takes any time for the sign that training is over.
            "total_time": "" if runs else duration(number(progress.get("total_time"))),
            "best_metric": number(progress.get("best_metric")),
            "training_dice": number(progress.get("training_dice")),
            "share": number(progress.get("share")),
            "stage": str(progress.get("stage") or ""),
            "state": "running" if runs else str(progress.get("state") or ""),
            "message": str(progress.get("message") or ""),
            "decision": None if decision is None else decision_facts(decision),
        }

    # -- inside -------------------------------------------------------------------------------------------------

    def _refusal(self, recipe: str) -> BadInputError | None:
        """Why a model cannot be trained at all; None where it can."""
        try:
            ensure_retrainable(self._models.description(recipe))
        except BadInputError as error:
            return error
        return None

    def _check(self, recipe: str) -> None:
        """Raise in words where training is impossible."""
        served = self._models.names()
        if recipe not in served:
            raise NotFoundError(
                f"no trainer is called {recipe!r}; there are {', '.join(self.trainers()) or 'none'}. "
                "A first model is trained with `overread train`, outside the server"
            )
        if refusal := self._refusal(recipe):
            raise refusal
        read_central(self._models.store.root / recipe)
        with self._database.reading() as c:
            usable = [row for row in labels(c, recipe) if row.status in (ACCEPTED, APPROVED)]
        if all(row.protected for row in usable):
            judging = f"; {len(usable)} are kept for judging" if usable else ""
            raise BadInputError(
                f"there is no accepted label to train {recipe} on yet{judging}: submit one first"
            )
        patients, needed = len({row.patient for row in usable}), GateOptions().fewest_cases
        if patients < needed:
            raise BadInputError(
                f"{recipe} has accepted labels of {patients} of the {needed} patients that the gate needs to judge by"
            )

    def _options(self, wishes: Mapping[str, Any]) -> dict[str, Any]:
        known = self.config()
        for key in wishes:
            if key not in known and key not in NO_OPTIONS:
                raise BadInputError(f"{key} is no option of training; there are {', '.join(known)}")
        chosen = {key: _first(wishes.get(key, default)) for key, default in known.items()}
        for key in ("start", "consensus"):
            if chosen[key] not in known[key]:
                raise BadInputError(
                    f"{key} {chosen[key]!r} is not offered; there are {', '.join(known[key])}"
                )
        minutes = number(chosen["minutes"])
        if chosen["minutes"] in (AUTO, "", None):
            return chosen | {"minutes": None}
        if minutes <= 0:
            raise BadInputError(f"minutes {chosen['minutes']!r}: expected a number above 0, or {AUTO}")
        return chosen | {"minutes": minutes}

    def _write(self, recipe: str, request: dict[str, Any]) -> None:
        folder = self._folder / recipe
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        whole = request | {
            "recipe": recipe,
            "models": str(self._models.store.root),
            "studies": str(self._studies),
            "device": str(self._models.device),
            # Training has other names for it.
            "precision": "float32" if self._settings.precision == "full" else "auto",
            "threads": self._settings.threads,
            "iterations": self._settings.train_iterations,
            "assumed_um_per_px": self._settings.assumed_um_per_px,
        }
        temporary = folder / f".{REQUEST}.new"
        temporary.write_text(json.dumps(whole, indent=2) + "\n")
        temporary.replace(folder / REQUEST)

    def _enter(self, recipe: str, request: dict[str, Any]) -> Task:
        shown = {key: request[key] for key in ("model", *self.config()) if key in request}
        task = Task(str(request.get("id") or uuid.uuid4()), recipe, shown)
        self._tasks.append(task)
        self._waiting.append(task)
        return task

    def _next(self) -> None:
        """Start the first task that waits, if none runs."""
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._begin(self._current)

    def _begin(self, task: Task) -> None:
        task.status = RUNNING
        request = self._folder / task.recipe / REQUEST
        self._children.start(
            CHILD, PROGRAM, ["--request", str(request)], lambda ending: self._ended(task, ending)
        )

    def _ended(self, task: Task, ending: Ending) -> None:
        progress = read_json(self._folder / task.recipe / PROGRESS) or {}
        with self._guard:
            if task.status == STOPPED:
                task.end(STOPPED, "stopped")
            elif ending.code == 0:
                task.end(DONE, str(progress.get("message") or "finished"))
            elif (ending.code < 0 or ending.code == INTERRUPTED) and task.restarts < MOST_RESTARTS:
                task.restarts += 1
                why = "training was interrupted from outside the server" if ending.code > 0 else ending.words
                task.notes.append(f"{why}; carried on from the last checkpoint")
                self._begin(task)
                return
            else:
                failed = progress.get("state") == FAILED and progress.get("message")
                task.end(ERROR, str(failed or ending.words))
            self._forget(task)
            self._current = None
            self._next()

    def _forget(self, task: Task) -> None:
        (self._folder / task.recipe / REQUEST).unlink(missing_ok=True)

    def _labels_since_training(self, recipe: str) -> int:
        with self._database.reading() as c:
            last = newest(c, "training started", recipe)
            since = last.at if last is not None else float("-inf")
            rows = labels(c, recipe)
        return sum(row.status in (ACCEPTED, APPROVED) and row.submitted_at > since for row in rows)

    def _shown(self, task: Task) -> dict[str, Any]:
        progress = read_json(self._folder / task.recipe / PROGRESS) or {}
        message = progress.get("message") if task.status == RUNNING else None
        shown = {
            "id": task.id,
            "status": task.status,
            "request": task.request,
            "start_ts": task.start_ts,
            "details": [*task.notes, *([str(message)] if message else [])],
        }
        return shown if task.end_ts is None else shown | {"end_ts": task.end_ts}


def decision_facts(decision: DecisionRow) -> dict[str, Any]:
    """A decision of the gate as JSON, with its table."""
    return {
        "champion": decision.champion,
        "challenger": decision.challenger,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "decided_at": decision.decided_at,
        "report": decision.report,
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none, or half of one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def number(value: Any, default: float = 0.0) -> float:
    """The value as a finite number: viewers calculate with it."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return default
    return found if math.isfinite(found) else default


def duration(seconds: float) -> str:
    """Such as `0:12:05`; empty for none."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if seconds > 0 else ""


def _first(value: Any) -> Any:
    """A client that did not show the table sends a list back whole."""
    return value[0] if isinstance(value, list) and value else value
