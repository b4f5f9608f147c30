"""Readers who never rest: next case, infer, submit. They remember what they sent and what was answered with 200."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import Any

import numpy as np
import requests

from overread.imaging.volumes import write_nifti
from overread.studies.kill_place import FINDING, GRID, RECIPE, SHAPE, Place

SERVING, INFERRING, SUBMITTING, RESTING = "serving", "inferring", "submitting", "resting"
# Between two cases. A person takes longer; this leaves the processor to the trainer.
REST_S = 0.4
TIMEOUT_S = 120


@dataclass
class Sent:
    """One label on its way.

    Attributes:
        case: of the image.
        digest: of the voxels; no two labels share one.
        accepted: what the server said of it; None where no answer came.
    """

    case: str
    digest: str
    accepted: dict[str, Any] | None = None


@dataclass
class Ledger:
    """What all readers sent.

    Attributes:
        sent: in order.
        troubles: answers that should not have been.
    """

    sent: list[Sent] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def label(self, place: Place, case: str) -> tuple[Sent, np.ndarray]:
        """A right label but for a corner, where its number is written."""
        with self.guard:
            voxels = place.truth(case)
            number = len(self.sent) + 1
            voxels[0, 0, :] = [number >> bit & 1 for bit in range(SHAPE[2])]
            sent = Sent(case, digest_of(voxels))
            self.sent.append(sent)
        return sent, voxels

    def answered(self) -> list[Sent]:
        """Labels that were answered with 200."""
        return [sent for sent in self.sent if sent.accepted is not None]


def digest_of(voxels: np.ndarray) -> str:
    """Of the values, whatever their type."""
    return sha256(np.ascontiguousarray(voxels, dtype=np.uint8).tobytes()).hexdigest()


class Reader:
    """One client, in a thread of its own.

    Attributes:
        doing: what it waits for at the moment.
        lasted: seconds that each kind of request took lately.
    """

    def __init__(self, name: str, url: str, place: Place, ledger: Ledger) -> None:
        self.name, self._url, self._place, self._ledger = name, url, place, ledger
        self._file = place.folder / f"{name}.nii.gz"
        self.doing = RESTING
        self.lasted: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=9))
        self._guard = threading.Lock()
        self._go, self._resting, self._dead = threading.Event(), threading.Event(), threading.Event()
        self._rng = np.random.default_rng(sum(name.encode()))
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def start(self) -> None:
        """Begin, or go on."""
        with self._guard:
            self._dead.clear()
            self._resting.clear()
            self._go.set()

    def server_dies(self) -> None:
        """From now on requests may fail."""
        self._dead.set()

    def rest(self) -> None:
        """Return when the request under way is over, one way or the other."""
        self._go.clear()
        self._resting.wait()

    def usual(self, doing: str) -> float:
        """Seconds that such a request takes."""
        return median(self.lasted[doing]) if self.lasted[doing] else 0.1

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._go.is_set():
                    self._resting.set()
            self._go.wait()
            try:
                self._one_case()
            except requests.RequestException as error:
                if not self._dead.is_set():
                    self._ledger.troubles.append(f"{self.name}, {self.doing}: {error}")
                self._go.clear()
            self.doing = RESTING
            time.sleep(REST_S)

    def _one_case(self) -> None:
        answer = self._ask(SERVING, "POST", "/activelearning/most_uncertain", json={"client_id": self.name})
        case = answer.get("id") or self._one_of_mine()
        if case is None:
            return
        params = json.dumps({"client_id": self.name})
        self._ask(
            INFERRING,
            "POST",
            f"/infer/{RECIPE}",
            params={"image": case, "output": "json"},
            data={"params": params},
        )
        sent, voxels = self._ledger.label(self._place, case)
        write_nifti(self._file, voxels, GRID)
        told = {"client_id": self.name, "label_info": [{"name": FINDING, "idx": 1}], "model": RECIPE}
        with self._file.open("rb") as file:
            answer = self._ask(
                SUBMITTING,
                "PUT",
                "/datastore/label",
                params={"image": case},
                data={"params": json.dumps(told)},
                files={"label": file},
            )
        sent.accepted = answer["accepted"]

    def _one_of_mine(self) -> str | None:
        """When all cases are labelled, an own one is labelled again."""
        mine = [
            sent.case for sent in self._ledger.answered() if (sent.accepted or {}).get("rater") == self.name
        ]
        return str(self._rng.choice(mine)) if mine else None

    def _ask(self, doing: str, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        began = time.monotonic()
        self.doing = doing
        answer = requests.request(method, f"{self._url}{path}", timeout=TIMEOUT_S, **arguments)
        self.doing = RESTING
        if not answer.ok:
            raise requests.HTTPError(f"{answer.status_code} {answer.text[:300]}")
        self.lasted[doing].append(time.monotonic() - began)
        return answer.json()
