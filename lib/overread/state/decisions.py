"""What the gate decided, with its whole table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from overread.domain.errors import NotFoundError
from overread.state.rows import to_json
from overread.state.schema import DECISIONS


@dataclass(frozen=True)
class DecisionRow:
    """One decision.

    Attributes:
        id: of the decision.
        recipe: the model's name.
        champion: identity of what was in service.
        challenger: identity of what was judged.
        promoted: whether the challenger is to be served.
        applied: whether the champion store says so already; false after a crash in between.
        reason: in words.
        report: the tables per class and per case.
        decided_at: when.
    """

    id: int
    recipe: str
    champion: str
    challenger: str
    promoted: bool
    applied: bool
    reason: str
    report: dict[str, Any]
    decided_at: float


def add_decision(
    c: Connection,
    *,
    recipe: str,
    champion: str,
    challenger: str,
    promoted: bool,
    reason: str,
    report: dict[str, Any],
    now: float,
    applied: bool = False,
) -> int:
    """Keep a decision; its id.

    Raises:
        BadInputError: a number in the report is not finite.
    """
    key = c.execute(
        insert(DECISIONS).values(
            recipe=recipe,
            champion=champion,
            challenger=challenger,
            promoted=promoted,
            applied=applied,
            reason=reason,
            report_json=to_json(report, f"report on {recipe} {challenger}"),
            decided_at=now,
        )
    ).inserted_primary_key
    assert key is not None
    return key[0]


def mark_applied(c: Connection, decision_id: int) -> None:
    """The champion store follows the decision now.

    Raises:
        NotFoundError: there is no such decision.
    """
    if not c.execute(update(DECISIONS).where(DECISIONS.c.id == decision_id).values(applied=True)).rowcount:
        raise NotFoundError(f"there is no decision {decision_id}")


def decisions(c: Connection, recipe: str | None = None) -> list[DecisionRow]:
    """Decisions about a recipe (None: about all), newest last."""
    wanted = select(DECISIONS).order_by(DECISIONS.c.id)
    if recipe is not None:
        wanted = wanted.where(DECISIONS.c.recipe == recipe)
    return [
        DecisionRow(
            id=row.id,
            recipe=row.recipe,
            champion=row.champion,
            challenger=row.challenger,
            promoted=row.promoted,
            applied=row.applied,
            reason=row.reason,
            report=json.loads(row.report_json),
            decided_at=row.decided_at,
        )
        for row in c.execute(wanted)
    ]
