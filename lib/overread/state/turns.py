"""What a client asked about a case while it was open: clicks, runs, choices."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from overread.state.rows import to_json
from overread.state.schema import TURNS


@dataclass(frozen=True)
class Turn:
    """One request of a clinician about a case.

    Attributes:
        id: of the turn.
        case_id: what it was about.
        client_id: who asked.
        recipe: the model that answered.
        champion: identity of the ensemble that answered.
        kind: what was asked, as `inference` or `click`.
        payload: what belongs to that kind.
        at: when.
    """

    id: int
    case_id: str
    client_id: str
    recipe: str
    champion: str
    kind: str
    payload: dict[str, Any]
    at: float


def add_turn(
    c: Connection,
    *,
    case_id: str,
    client_id: str,
    recipe: str,
    champion: str,
    kind: str,
    payload: dict[str, Any],
    now: float,
) -> Turn:
    """Keep a turn.

    Raises:
        BadInputError: a number in the payload is not finite.
    """
    text = to_json(payload, f"turn {kind} of case {case_id}")
    values = {
        "case_id": case_id,
        "client_id": client_id,
        "recipe": recipe,
        "champion": champion,
        "kind": kind,
        "at": now,
    }
    key = c.execute(insert(TURNS).values(payload_json=text, **values)).inserted_primary_key
    assert key is not None
    return Turn(id=key[0], payload=json.loads(text), **values)


def turns_of(c: Connection, case_id: str, client_id: str | None = None) -> list[Turn]:
    """The turns of a case, of one client or of all, oldest first."""
    wanted = select(TURNS).where(TURNS.c.case_id == case_id).order_by(TURNS.c.id)
    if client_id is not None:
        wanted = wanted.where(TURNS.c.client_id == client_id)
    return [_turn(row) for row in c.execute(wanted)]


def last_turn(
    c: Connection, case_id: str, client_id: str, recipe: str, champion: str, kind: str
) -> Turn | None:
    """A client's last turn of one kind at a case and a model; None where there was none."""
    wanted = (
        select(TURNS)
        .where(TURNS.c.case_id == case_id, TURNS.c.client_id == client_id, TURNS.c.kind == kind)
        .where(TURNS.c.recipe == recipe, TURNS.c.champion == champion)
        .order_by(TURNS.c.id.desc())
        .limit(1)
    )
    row = c.execute(wanted).first()
    return None if row is None else _turn(row)


def _turn(row: Row[Any]) -> Turn:
    return Turn(
        id=row.id,
        case_id=row.case_id,
        client_id=row.client_id,
        recipe=row.recipe,
        champion=row.champion,
        kind=row.kind,
        payload=json.loads(row.payload_json),
        at=row.at,
    )
