"""The trainer's process: `python -m overread.learning.process --request <app>/training/<recipe>/request.json`.

It runs one cycle and says in `progress.json`, beside the request, where it stands. It ends at its next step, keeping
what it has, on SIGTERM, on Ctrl-C, or when its standard input closes because whoever started it is gone. The request
stays until its cycle has ended, so that the next start carries on.

Exit codes: 0 the gate has decided, 1 the cycle failed (`progress.json` says why), 3 it was stopped, 4 another process
trains this recipe already.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout

from overread.domain import BadInputError, OverreadError
from overread.domain.slides import PixelSize
from overread.ensemble.compute import leave_a_core
from overread.ensemble.storage import read_description, reference_of
from overread.ensemble.training import StoppedError
from overread.imaging.slides.slide import ASSUMED
from overread.imaging.volumes import READABLE_SUFFIXES
from overread.learning.accepted import AcceptedLabels
from overread.learning.champions import ChampionStore
from overread.learning.cycle import CycleProgress, run_cycle
from overread.learning.durable import write_json
from overread.learning.gate import Decision, GateOptions
from overread.learning.options import RetrainingOptions
from overread.learning.patches import PatchImages
from overread.learning.patients import read_centres
from overread.lifeline import when_cut
from overread.state.database import DATABASE_VARIABLE, Database

log = logging.getLogger(__name__)

REQUEST, PROGRESS, LOCK = "request.json", "progress.json", "process.lock"
RUNNING, PROMOTED, REJECTED, FAILED, STOPPED = "running", "promoted", "rejected", "failed", "stopped"
DECIDED, BROKEN, INTERRUPTED, BUSY = 0, 1, 3, 4
# Readers need no more, and the disk is spared.
SECONDS_BETWEEN_REPORTS = 1.0
ACCEPTED, PATCHES = "accepted", "patches"


class BusyError(OverreadError):
    """One training of a recipe at a time."""


@dataclass(frozen=True)
class Request:
    """What to train, as whoever asks writes it to `request.json`.

    Attributes:
        recipe: whose champion.
        models: root of the champion store.
        studies: folder of the images, with the accepted labels below it.
        database: path or URL, which may hold a password: `request.json` may leave it to `OVERREAD_DATABASE`.
        id: names the request; one that was decided is not run again.
        consensus, device: see `run_cycle`.
        retraining, gate: options that differ from the defaults.
        assumed_um_per_px: pixel size of slides that do not tell theirs; None leaves it to `imaging.slides`.
    """

    recipe: str
    models: Path
    studies: Path
    database: str
    id: str = ""
    consensus: str = "latest"
    device: str = "auto"
    retraining: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    assumed_um_per_px: float | None = None

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read a request. Options of `RetrainingOptions` may also stand beside the other keys; None is no wish.

        Raises:
            BadInputError: the file is missing, damaged, or lacks something.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BadInputError(f"the request {path} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise BadInputError(f"the request {path} holds no object")
        values.setdefault("database", os.environ.get(DATABASE_VARIABLE))
        if missing := [name for name in ("recipe", "models", "studies", "database") if not values.get(name)]:
            raise BadInputError(f"the request {path} lacks {', '.join(missing)}")
        names = {known.name for known in fields(RetrainingOptions)}
        beside = {name: value for name, value in values.items() if name in names and value is not None}
        return cls(
            recipe=values["recipe"],
            models=Path(values["models"]),
            studies=Path(values["studies"]),
            database=values["database"],
            id=str(values.get("id") or ""),
            consensus=values.get("consensus") or "latest",
            device=values.get("device") or "auto",
            retraining={**beside, **(values.get("retraining") or {})},
            gate=values.get("gate") or {},
            assumed_um_per_px=values.get("assumed_um_per_px"),
        )


class ProgressFile:
    """`progress.json`: whole at any moment, finite numbers only, written at most once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.time()
        self._told = float("-inf")
        self._last: CycleProgress | None = None
        self._best = 0.0

    def __call__(self, now: CycleProgress) -> None:
        """Tell where a cycle stands."""
        stage_changed = self._last is None or self._last.stage != now.stage
        self._last = now
        if stage_changed or time.monotonic() - self._told >= SECONDS_BETWEEN_REPORTS:
            self._write(RUNNING, now.message)

    def end(self, state: str, message: str, decision: Decision | None = None) -> None:
        """Tell how it ended."""
        self._write(state, message, decision)

    def _write(self, state: str, message: str, decision: Decision | None = None) -> None:
        self._told = time.monotonic()
        last = self._last
        over = state in (PROMOTED, REJECTED)
        dice = last.training_dice if last is not None else None
        self._best = max(self._best, dice or 0.0)
        content = {
            "state": state,
            "stage": last.stage if last else "checking",
            "share": 1.0 if over else last.share if last else 0.0,
            "epoch": 100 if over else last.epoch if last else 0,
            "total_epochs": 100,
            "total_time": time.time() - self._began,
            "seconds_left": last.seconds_left if last and state == RUNNING else None,
            # Viewers draw a bar of it: the Dice that was judged, once there is one.
            "best_metric": decision.local.mean_after if decision and decision.local else self._best,
            "training_dice": dice,
            "message": message,
            "pid": os.getpid(),
            "started_at": self._began,
            "updated_at": time.time(),
            "decision": decision.to_json() if decision else None,
        }
        write_json(self.path, _finite(content))


def images_below(studies: Path) -> Mapping[str, Path]:
    """Image files of a studies folder by case id, which is the name without its ending."""
    found: dict[str, Path] = {}
    for path in sorted(Path(studies).iterdir()):
        ending = next((suffix for suffix in READABLE_SUFFIXES if path.name.lower().endswith(suffix)), None)
        if ending and path.is_file() and not path.name.startswith("."):
            found.setdefault(path.name[: -len(ending)], path)
    return found


def images_for(
    um_per_px: float | None, request: Request, folder: Path, reference: np.ndarray | None = None
) -> Callable[[str], Path | None]:
    """How the image of a case is found: among the studies, or as a patch of one of the slides there.

    Args:
        um_per_px: pixel size of the model, None for one that does not see slides.
        folder: of the recipe's training; keeps the patches.
        reference: colours in which the model sees slides; None: as they are.
    """
    if um_per_px is None:
        return images_below(request.studies).get
    assumed = ASSUMED if request.assumed_um_per_px is None else PixelSize(request.assumed_um_per_px)
    return PatchImages(request.studies, folder / PATCHES, um_per_px, assumed, reference).image_of


def train(
    request: Request,
    folder: Path,
    stop: threading.Event,
    heard: Callable[[CycleProgress], None] = lambda _: None,
) -> Decision:
    """Run the cycle that is asked for, and tell in `progress.json` how it goes and how it ended.

    Args:
        folder: of the recipe's training, `<app>/training/<recipe>`.
        heard: is told as well.

    Raises:
        BusyError: another process trains in this folder. Otherwise what `run_cycle` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process trains {request.recipe} in {folder} already") from error
    progress = ProgressFile(folder / PROGRESS)

    def tell(now: CycleProgress) -> None:
        progress(now)
        heard(now)

    with lock:
        try:
            decision = _cycle(request, folder, tell, stop)
        except StoppedError as error:
            progress.end(STOPPED, str(error))
            raise
        except OverreadError as error:
            progress.end(FAILED, str(error))
            raise
        except Exception as error:
            progress.end(FAILED, f"the training failed: {error!r}; its log says more")
            raise
        progress.end(PROMOTED if decision.promoted else REJECTED, decision.reason, decision)
        return decision


def run(path: Path, stop: threading.Event) -> int:
    """Do what the request in a file asks for. Returns the exit code."""
    try:
        request = Request.read(path)
        leave_a_core()
        train(request, path.parent, stop)
    except BusyError as error:
        log.error("%s", error)
        return BUSY
    except StoppedError as error:
        log.info("%s", error)
        return INTERRUPTED
    except OverreadError as error:
        log.error("%s", error)
        path.unlink(missing_ok=True)
        return BROKEN
    except Exception:
        log.exception("the training failed")
        path.unlink(missing_ok=True)
        return BROKEN
    path.unlink(missing_ok=True)
    return DECIDED


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, listen for the end, run. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Train one challenger and let the gate decide.")
    parser.add_argument("--request", type=Path, required=True, help="request.json in a folder of its own")
    path = parser.parse_args(arguments).request.resolve()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="[%(asctime)s] [%(levelname)s] (%(name)s) %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_cut(stop.set)
    return run(path, stop)


def _cycle(
    request: Request, folder: Path, progress: Callable[[CycleProgress], None], stop: threading.Event
) -> Decision:
    retraining = _options(RetrainingOptions, {"device": request.device, **request.retraining})
    gate = _options(GateOptions, request.gate)
    store = ChampionStore(request.models)
    champion = read_description(store.current(request.recipe))
    um_per_px, reference = champion["plan"].get("um_per_px"), reference_of(champion)
    database = Database.open(request.database)
    try:
        accepted = AcceptedLabels(request.studies / ACCEPTED, database)
        accepted.settle(time.time())
        return run_cycle(
            request.recipe,
            store,
            accepted,
            database,
            folder,
            retraining,
            gate,
            images_for(um_per_px, request, folder, reference),
            cast(Any, request.consensus),
            request.device,
            progress,
            stop,
            request=request.id,
            centre_of=read_centres(request.studies),
        )
    finally:
        database.close()


def _options(kind: type, values: Mapping[str, Any]) -> Any:
    """Options from JSON. Raises BadInputError for an unknown one."""
    known = {option.name for option in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise BadInputError(f"{unknown[0]} is no option of training; there are {', '.join(sorted(known))}")
    return kind(**values)


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
