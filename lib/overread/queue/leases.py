"""Handing things to clients: leases, the control arm's turn, what rests after a skip, and the audit log."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from sqlalchemy import Connection, func, select

from overread.queue.settings import QueueSettings
from overread.state.audit import append
from overread.state.schema import SERVINGS
from overread.state.servings import SKIPPED, Serving, end, expire, open_of_client, serve


class Leases:
    """The servings of one recipe's queue.

    Args:
        recipe: the model's name.
        champion: under which its scores are kept; empty where there is none.
        settings: how things are handed out.
        noun: what is handed out, as the audit log calls it.
    """

    def __init__(self, recipe: str, champion: str, settings: QueueSettings, noun: str) -> None:
        self.recipe, self.champion, self.settings, self.noun = recipe, champion, settings, noun

    def take_back(self, c: Connection, client_id: str, now: float) -> None:
        """End leases that are over, and as skipped what the client held.

        An anonymous client, `""`, may be several people and loses nothing.
        """
        expire(c, now)
        for serving in open_of_client(c, client_id) if client_id else ():
            end(c, serving.id, SKIPPED, now)
            self._audit(c, f"{self.noun} skipped", serving, now)

    def is_controls_turn(self, c: Connection) -> bool:
        """Whether the next serving belongs to the control arm."""
        before = select(func.count()).select_from(SERVINGS).where(SERVINGS.c.recipe == self.recipe)
        return is_control(c.execute(before).scalar_one(), self.settings.control_share, self.recipe)

    def resting(self, c: Connection) -> set[str]:
        """What was skipped, and since then fewer than `skip_rest` others have been served."""
        if self.settings.skip_rest == 0:
            return set()
        mine = SERVINGS.c.recipe == self.recipe
        newest = select(SERVINGS.c.served_at).where(mine).order_by(SERVINGS.c.id.desc())
        since = c.execute(newest.offset(self.settings.skip_rest - 1).limit(1)).scalar()
        skipped = select(SERVINGS.c.case_id).where(mine, SERVINGS.c.outcome == SKIPPED)
        if since is not None:
            skipped = skipped.where(SERVINGS.c.ended_at > since)
        return set(c.execute(skipped).scalars())

    def hand_out(
        self,
        c: Connection,
        case_id: str,
        patient: str,
        client_id: str,
        strategy: str,
        arm: str,
        reason: str,
        score: float | None,
        now: float,
        *,
        holds: bool = True,
    ) -> Serving:
        """Serve, and say so in the audit log; without `holds` only say what would be served, and write nothing down.

        Raises:
            CaseTakenError: it is with a client.
        """
        facts: dict[str, Any] = {
            "case_id": case_id,
            "patient": patient,
            "client_id": client_id,
            "recipe": self.recipe,
            "champion": self.champion,
            "strategy": strategy,
            "arm": arm,
            "reason": reason,
            "score": score,
        }
        if not holds:
            return Serving(id=0, **facts, served_at=now, expires_at=now, ended_at=now, outcome=None)
        serving = serve(c, **facts, now=now, lease_s=self.settings.lease_s)
        self._audit(c, f"{self.noun} served", serving, now)
        return serving

    def _audit(self, c: Connection, action: str, serving: Serving, now: float) -> None:
        append(
            c,
            actor=serving.client_id or "anonymous",
            action=action,
            subject=serving.case_id,
            details={
                "serving": serving.id,
                "recipe": serving.recipe,
                "champion": serving.champion,
                "strategy": serving.strategy,
                "arm": serving.arm,
                "reason": serving.reason,
                "score": serving.score,
                "expires_at": serving.expires_at,
            },
            now=now,
        )


def is_control(served_before: int, share: float, salt: str) -> bool:
    """Whether the serving after `served_before` others belongs to the control arm.

    Servings are cut into blocks of `1 / share`, one of each block is control: after n servings the arm holds less
    than one case more or less than `n * share`. Which one of its block follows from a hash, so that no client who
    asks in a regular turn gets all of them or none.
    """
    if share <= 0:
        return False
    block = int((served_before + 1) * share) + 1
    while _block_start(block, share) > served_before:
        block -= 1
    start, length = (
        _block_start(block, share),
        _block_start(block + 1, share) - _block_start(block, share),
    )
    digest = hashlib.sha256(f"{salt}/{block}".encode()).digest()
    return served_before == start + int.from_bytes(digest[:8], "big") % length


def _block_start(block: int, share: float) -> int:
    # 3 / 0.1 is 29.999999999999996.
    return math.floor(block / share + 1e-9)
