"""The queue over HTTP: which case comes next for a client, and why."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from overread.domain import NotFoundError
from overread.meduhip.doubt import doubt_facts
from overread.queue.patches.serving import ServedPatch
from overread.queue.serving import CaseQueue, Nothing, Served
from overread.queue.settings import QueueSettings
from overread.queue.strategies import STRATEGIES
from overread.server.models import ServedModels
from overread.server.names import rater_name
from overread.server.settings import Settings
from overread.server.store import GuardedStore
from overread.server.strategies import NamedStrategy, listed
from overread.state.database import Database
from overread.state.scores import count_scores
from overread.state.servings import open_servings

logger = logging.getLogger(__name__)

RANDOM = "random"
# Whoever does not say who they are: perhaps several people, so that no one's case is taken for skipped.
NOBODY = ""


class Queueing:
    """Hands cases out, each to one client at a time."""

    def __init__(
        self,
        store: GuardedStore,
        models: ServedModels,
        database: Database,
        settings: Settings,
    ) -> None:
        STRATEGIES[settings.strategy]
        self._store, self._models, self._database = store, models, database
        self._settings = settings
        self._rng = np.random.default_rng()
        self._guard = threading.Lock()
        self._queue: CaseQueue | None = None
        self._latest: Served | None = None

    def strategies(self) -> dict[str, NamedStrategy]:
        """What `/info/` lists, the default first: viewers select the first."""
        return listed(STRATEGIES, self._settings.strategy)

    def next_case(self, strategy: str, wishes: Mapping[str, Any], user: str = "") -> dict[str, Any]:
        """The next case for a client, in the keys that viewers read; empty where nothing waits.

        3D Slicer says who it is (`client_id`) and which strategy its reader picked. OHIF says neither: its panel
        asks for `random` whatever is chosen there, so `random` from nobody in particular gets the default.

        Args:
            strategy: the name in the address.
            wishes: the body of the request.
            user: who is logged in, whatever the client calls itself; empty where nobody has to be.

        Raises:
            NotFoundError: no such strategy.
        """
        if strategy not in STRATEGIES:
            raise NotFoundError(
                f"no strategy is called {strategy!r}; there are {', '.join(self.strategies())}"
            )
        if strategy == RANDOM and "client_id" not in wishes:
            strategy = self._settings.strategy
        waiting = {case: self._store.patient_of(case) for case in self._store.get_unlabeled_images()}
        labelled = {case: self._store.patient_of(case) for case in self._store.get_labeled_images()}
        client = user or str(wishes.get("client_id") or "")
        client = rater_name("", client) if client else NOBODY
        with self._guard:
            answer = self._current_queue().ask(strategy, client, waiting, labelled, time.time(), self._rng)
        if isinstance(answer, Nothing):
            logger.info("No case for %s: %s", client or "a viewer", answer.text)
            return {}
        self._latest = answer
        return self._answer(answer)

    def state(self) -> dict[str, Any]:
        """What `/info/` says of the queue."""
        recipe = self._models.queued()
        champion = self._models.scored_as(recipe)
        now = time.time()
        with self._database.reading() as c:
            leases = [serving for serving in open_servings(c) if serving.expires_at > now]
            scored = count_scores(c, recipe, champion)
        latest = self._latest
        return {
            "recipe": recipe,
            "champion": champion,
            "strategy": self._settings.strategy,
            "control_share": self._settings.control_share,
            "waiting": len(self._store.get_unlabeled_images()),
            "scored": scored,
            "total": len(self._store.list_images()),
            "leases": len(leases),
            "stop": stop_facts(latest),
        }

    def _current_queue(self) -> CaseQueue:
        recipe = self._models.queued()
        champion = self._models.scored_as(recipe)
        queue = self._queue
        if queue is None or (queue.recipe, queue.champion) != (recipe, champion):
            queue = self._queue = CaseQueue(
                self._database,
                recipe,
                champion,
                self._models.classes(recipe)[1:] if recipe else (),
                QueueSettings(
                    strategy=self._settings.strategy,
                    control_share=self._settings.control_share,
                    lease_s=self._settings.lease_s,
                ),
            )
        return queue

    def _answer(self, served: Served) -> dict[str, Any]:
        serving = served.serving
        image = self._store.known_image(serving.case_id)
        known = {
            key: value
            for key, value in self._store.get_image_info(serving.case_id).items()
            if key != "strategy"
        }
        return known | {
            "id": serving.case_id,
            "path": str(image),
            "name": image.name,
            "PatientID": served.text,
            "reason": serving.reason,
            "strategy": serving.strategy,
            "arm": served.arm,
            "score": serving.score,
            "doubt_parts": doubt_facts(served.parts),
            "champion": serving.champion,
            "waiting": served.waiting,
            "scored": served.scored,
            "total": served.total,
            "stop": stop_facts(served),
            "lease_expires": serving.expires_at,
        }


def stop_facts(served: Served | ServedPatch | None) -> dict[str, Any] | None:
    """Whether another label is worth its time, as JSON; None where too little is known."""
    if served is None or served.stop is None:
        return None
    advice = served.stop
    return {
        "stop": advice.stop,
        "because": advice.because,
        "expected_correction": advice.expected_correction,
    }
