"""What an inference knew beyond its label map, kept per model, champion and case.

    <root>/<recipe>/<champion>/<case>/predictive_entropy.nii.gz     doubt, in the measure's unit
    <root>/<recipe>/<champion>/<case>/probability_<class>.nii.gz    mean over members, 0..1
    <root>/<recipe>/<champion>/<case>/proposal.nii.gz               class indices
    <root>/<recipe>/<champion>/<case>/own/<client>.nii.gz           class indices after this client's clicks
    <root>/<recipe>/<champion>/<case>/shown.json                    how it was shown, and to whom

All volumes lie on the input's grid. Files appear whole, in the background: a reader waits for them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from overread.domain import Grid, NotFoundError
from overread.ensemble.prediction import Prediction
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.champions import HASH_LENGTH
from overread.server.doubt import BANDS_INSIDE, BANDS_ONLY, DOUBT_NAMES, DoubtMode
from overread.server.overlays import CANDIDATE_NAMES, REGIONS_INSIDE, REGIONS_OFF, CandidateMode

logger = logging.getLogger(__name__)

PROPOSAL = "proposal"
SUFFIX = ".nii.gz"
OWN = "own"
SHOWN = "shown.json"
# Volumes of this many inferences may wait to be written before the next one waits as well.
MOST_WAITING = 2
LONGEST_WAIT_S = 300.0


@dataclass(frozen=True)
class MapKey:
    """Which inference: the model's name, its champion's hash, the case."""

    recipe: str
    champion: str
    case: str


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a champion proposed for a case.

    Attributes:
        labels: class indices `(*space)`.
        grid: the case's grid.
        classes_hold_doubt: whether the reader saw the bands inside the classes, so that voxels which they left
            in a band were never judged to be background.
        champion: that proposed it, as in the folder's name.
        shown_to_client: whether the client that was asked for saw it; if not, somebody else did.
        classes_hold_candidates: the same as `classes_hold_doubt` for the regions of candidates.
    """

    labels: np.ndarray
    grid: Grid
    classes_hold_doubt: bool
    champion: str = ""
    shown_to_client: bool = True
    classes_hold_candidates: bool = False

    def classes_hold(self, overlay: str) -> bool:
        """Whether the reader saw the overlay of that name inside the classes."""
        if overlay in CANDIDATE_NAMES:
            return self.classes_hold_candidates
        return overlay in DOUBT_NAMES and self.classes_hold_doubt


class MapStore:
    """Maps below one folder, such as `apps/radiology/maps`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="maps")
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._pending: dict[MapKey, Future[None]] = {}
        self._shown = threading.Lock()

    def keep(
        self,
        key: MapKey,
        prediction: Prediction,
        classes: tuple[str, ...],
        floats: bool = True,
        client: str | None = None,
    ) -> Future[None]:
        """Write an inference's proposal, and with `floats` its maps and probabilities, in the background.

        Args:
            client: whose own proposal it is as well, where clients are shown different ones; see `keep_own`.
        """

        def write() -> None:
            folder = self._folder(key)
            if client is not None:
                write_nifti(folder / OWN / _own_name(client), prediction.labels, prediction.grid)
            write_nifti(folder / f"{PROPOSAL}{SUFFIX}", prediction.labels, prediction.grid)
            if not floats:
                return
            for name, field in prediction.maps.items():
                write_nifti(folder / _file_name(name), field.values.float().cpu().numpy(), prediction.grid)
            for name, probability in zip(classes, prediction.probabilities, strict=True):
                values = probability.float().cpu().numpy()
                write_nifti(folder / _file_name(f"probability_{name}"), values, prediction.grid)

        return self._in_background(key, write)

    def keep_own(self, key: MapKey, client: str, labels: np.ndarray, grid: Grid) -> Future[None]:
        """Write what is proposed to one client after what it said, in the background."""
        return self._in_background(
            key, lambda: write_nifti(self._folder(key) / OWN / _own_name(client), labels, grid)
        )

    def names(self, key: MapKey) -> list[str]:
        """Maps that are kept of this inference."""
        self._wait_for(key)
        files = self._folder(key).glob(f"*{SUFFIX}")
        return sorted(unquote(file.name[: -len(SUFFIX)]) for file in files if not file.name.startswith("."))

    def path(self, key: MapKey, name: str) -> Path:
        """A map's file.

        Raises:
            NotFoundError: it is not kept; nothing is computed for the asking.
        """
        names = self.names(key)
        if name not in names:
            kept = f"kept are {', '.join(names)}" if names else "nothing is kept; run an inference first"
            raise NotFoundError(
                f"no map {name!r} of image {key.case!r} by model {key.recipe!r} (champion {key.champion}): {kept}"
            )
        return self._folder(key) / _file_name(name)

    def record_shown(
        self,
        key: MapKey,
        client: str,
        mode: DoubtMode,
        candidates: CandidateMode = REGIONS_OFF,
        has_classes: bool | None = None,
    ) -> None:
        """Remember how a client saw a proposal.

        Args:
            has_classes: whether the answer held classes. One that did not, by default one of `bands only`, changes
                nothing about the classes that the client has.
        """
        if has_classes is None:
            has_classes = mode != BANDS_ONLY
        path = self._folder(key) / SHOWN
        with self._shown:
            seen = json.loads(path.read_text()) if path.exists() else {}
            how = {"doubt": mode, "candidates": candidates}
            if not has_classes and client in seen:
                how = {name: seen[client].get(name, REGIONS_OFF) for name in how}
            seen[client] = how | {"at": time.time()}
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{SHOWN}")
            temporary.write_text(json.dumps(seen))
            temporary.replace(path)

    def proposal(self, case: str, client: str | None, recipe: str | None = None) -> Proposal | None:
        """The proposal that this client saw last for a case; anybody's last one where it saw none.

        Args:
            recipe: only of this model; None takes any.
        """
        for own, _, who, seen, folder in self._sightings(case, client, recipe):
            self._wait_for(MapKey(folder.parent.parent.name, folder.parent.name, case))
            for file in (folder / OWN / _own_name(who), folder / f"{PROPOSAL}{SUFFIX}"):
                if file.exists():
                    labels, grid = read_labelmap(file)
                    return Proposal(
                        labels,
                        grid,
                        classes_hold_doubt=seen["doubt"] == BANDS_INSIDE,
                        champion=folder.parent.name,
                        shown_to_client=own,
                        classes_hold_candidates=seen.get("candidates") == REGIONS_INSIDE,
                    )
        return None

    def seen_last(self, case: str, client: str, recipes: Sequence[str]) -> str | None:
        """Of some models, the one whose proposal for a case this client saw last; None where it saw none."""
        for own, _, _, _, folder in self._sightings(case, client, None):
            if own and folder.parent.parent.name in recipes:
                return folder.parent.parent.name
        return None

    def _sightings(
        self, case: str, client: str | None, recipe: str | None
    ) -> list[tuple[bool, float, str, dict[str, Any], Path]]:
        """Who saw what when: whether it was this client, when, who, how, and the folder; own and latest first."""
        found = []
        for path in self.root.glob(f"{recipe or '*'}/*/*/{SHOWN}"):
            if path.parent.name != _folder_name(case):
                continue
            for who, seen in json.loads(path.read_text()).items():
                found.append((who == client, seen["at"], who, seen, path.parent))
        return sorted(found, key=lambda sighting: sighting[:2], reverse=True)

    def _in_background(self, key: MapKey, write: Callable[[], None]) -> Future[None]:
        self._room.acquire()

        def guarded() -> None:
            started = time.perf_counter()
            try:
                write()
                logger.info(
                    "Kept maps of %s (%s) in %.1f s", key.case, key.recipe, time.perf_counter() - started
                )
            except OSError:
                # The answer is with the reader already; a full disk must not take the server down.
                logger.exception("Maps of %s (%s) could not be kept", key.case, key.recipe)
            finally:
                self._room.release()

        future = self._pending[key] = self._writer.submit(guarded)
        return future

    def _wait_for(self, key: MapKey) -> None:
        future = self._pending.get(key)
        if future is not None:
            future.result(timeout=LONGEST_WAIT_S)
            if self._pending.get(key) is future:
                self._pending.pop(key, None)

    def _folder(self, key: MapKey) -> Path:
        return self.root / key.recipe / key.champion[:HASH_LENGTH] / _folder_name(key.case)


def _file_name(name: str) -> str:
    return quote(name, safe=" ") + SUFFIX


def _own_name(client: str) -> str:
    # Clients call themselves what they like, at any length.
    return hashlib.sha256(client.encode()).hexdigest()[:HASH_LENGTH] + SUFFIX


def _folder_name(case: str) -> str:
    return quote(case, safe=" ")
