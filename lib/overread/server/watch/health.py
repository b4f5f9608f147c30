"""Whether the server can do its work: database, studies, champions and child processes, each in a sentence.

The sentences go to whoever asks, without a password, so they name no path; the log names them when something changes.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.domain import OverreadError
from overread.server.faults import STORE_GONE, fault_answer

if TYPE_CHECKING:
    from overread.server.serving import Serving

logger = logging.getLogger(__name__)

# Writers hold the database for milliseconds; whoever holds it for so long does not let go.
PATIENCE_S = 1.0
# Below that a label of a large volume, or the next challenger, may not fit.
FEWEST_FREE_BYTES = 256 << 20
OK, DEGRADED, FAILING = "ok", "degraded", "failing"


@dataclass(frozen=True)
class Check:
    """What one look found.

    Attributes:
        trouble: for everybody; empty where all is well.
        cause: for the log; as `trouble` where that says it all.
        note: what else is worth knowing where all is well.
    """

    trouble: str = ""
    cause: str = ""
    note: str = ""


class Health:
    """The state of a server, looked at anew whenever it is asked for."""

    def __init__(self, serving: Serving[Any, Any]) -> None:
        self._serving = serving
        self._guard = threading.Lock()
        self._known: dict[str, str] = {}

    def look(self) -> dict[str, Any]:
        """`status` and `checks` as JSON.

        `failing`: labels cannot be kept, or a model that should answer cannot. `degraded`: only what runs in the
        background has a difficulty, and it is tried again by itself.
        """
        needed = {"database": self._database, "store": self._store, "champion": self._champion}
        beside = {"children": self._children}
        found = {name: _looked(check) for name, check in {**needed, **beside}.items()}
        self._tell_changes(found)
        failing = any(found[name].trouble for name in needed)
        degraded = any(found[name].trouble for name in beside)
        return {
            "status": FAILING if failing else DEGRADED if degraded else OK,
            "checks": {
                name: {"ok": not check.trouble, "message": check.trouble or check.note}
                for name, check in found.items()
            },
        }

    def _database(self) -> Check:
        self._serving.database.ensure_writable(PATIENCE_S)
        return Check()

    def _store(self) -> Check:
        if not self._serving.store.is_there():
            return Check(STORE_GONE)
        for what, folder in (("studies", self._serving.studies), ("app", self._serving.app_dir)):
            if not os.access(folder, os.W_OK):
                return Check(f"nothing can be written to the {what} folder", f"{folder} cannot be written to")
            if trouble := _little_space(what, folder):
                return Check(trouble)
        return Check()

    def _champion(self) -> Check:
        if troubles := self._serving.models.troubles():
            names = ", ".join(sorted(troubles))
            remedy = "the log says what is wrong; `overread models rollback NAME` goes back to an earlier one"
            return Check(f"the champion of {names} cannot be used; {remedy}", "; ".join(troubles.values()))
        return Check(note="" if self._serving.models.names() else "no model is served yet")

    def _children(self) -> Check:
        sentences = [self._serving.loop.scoring.trouble, self._serving.training.trouble]
        return Check("; ".join(sentence for sentence in sentences if sentence))

    def _tell_changes(self, found: dict[str, Check]) -> None:
        with self._guard:
            for name, check in found.items():
                if check.trouble == self._known.get(name, ""):
                    continue
                self._known[name] = check.trouble
                if check.trouble:
                    logger.error("Not in order, %s: %s", name, check.cause or check.trouble)
                else:
                    logger.warning("In order again: %s", name)


def _looked(look: Callable[[], Check]) -> Check:
    """What a look found; what it fails with is what it found."""
    try:
        return look()
    except (OverreadError, OSError) as error:
        answer = fault_answer(error)
        return Check(str(error) if answer is None else answer[1], str(error))


def _little_space(what: str, folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free >= FEWEST_FREE_BYTES:
        return ""
    return f"only {free / 1e6:.0f} MB are free on the disk of the {what} folder"
