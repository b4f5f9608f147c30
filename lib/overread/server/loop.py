"""The loop behind the endpoints: queue, scoring and training, kept going by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from overread.learning.versions import settle
from overread.server.models import ServedModels
from overread.server.scoring import Scoring
from overread.server.training import Training
from overread.state.database import Database

logger = logging.getLogger(__name__)

# How often new images, champions and labels are looked for.
LOOK_EVERY_S = 2.0


class HandsOut(Protocol):
    """What hands cases or patches out, as far as the loop needs to know."""

    def strategies(self) -> dict[str, Any]:
        """What `/info/` lists, the default first."""
        ...

    def state(self) -> dict[str, Any]:
        """What `/info/` says of the queue."""
        ...


class Loop:
    """Queue, scoring and training over one studies folder.

    Attributes:
        queueing, scoring, training: see their types.
    """

    def __init__(
        self,
        models: ServedModels,
        database: Database,
        queueing: HandsOut,
        scoring: Scoring,
        training: Training,
    ) -> None:
        self._models, self._database = models, database
        self.queueing, self.scoring, self.training = queueing, scoring, training
        self._looks: list[Callable[[], None]] = [training.look]
        if models.settings.scoring:
            self._looks.append(scoring.look)

    def also(self, look: Callable[[], None]) -> None:
        """Call this as well whenever everything is looked after; to be said before `open`."""
        self._looks.append(look)

    def open(self, warm_up: threading.Thread) -> None:
        """Put right what a crash left behind, carry on, and begin to look after everything.

        Args:
            warm_up: child processes start after it: the first reader goes before them.
        """
        settle(self._database, self._models.store)
        threading.Thread(target=self._keep_looking, args=(warm_up,), name="loop", daemon=True).start()

    def state(self) -> dict[str, Any]:
        """What `/info/` says of the queue."""
        return self.queueing.state() | {"scoring": self.scoring.state()}

    def _keep_looking(self, warm_up: threading.Thread) -> None:
        warm_up.join()
        self.training.carry_on()
        while True:
            for look in self._looks:
                try:
                    look()
                except Exception:
                    # Whatever it is, the loop goes on; the next look may find it mended.
                    logger.exception("The loop met a difficulty")
            time.sleep(LOOK_EVERY_S)
