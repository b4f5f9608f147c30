"""Which unlabelled case comes next, where no doubt has been scored yet."""

from __future__ import annotations

import random
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class FirstUnlabelled(Strategy):
    """Cases in the order of their names."""

    def __init__(self) -> None:
        super().__init__("The first case without a label, in the order of the names")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The case's id, or None where every case has its label."""
        waiting = sorted(datastore.get_unlabeled_images())
        return {"id": waiting[0]} if waiting else None


class RandomUnlabelled(Strategy):
    """Any case, all equally likely. OHIF asks for the strategy `random` whatever the user picks."""

    def __init__(self) -> None:
        super().__init__("Any case without a label")
        self._random = random.Random()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The case's id, or None where every case has its label."""
        waiting = sorted(datastore.get_unlabeled_images())
        return {"id": self._random.choice(waiting)} if waiting else None
