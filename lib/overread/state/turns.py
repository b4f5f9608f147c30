"""What a client asked about a case while it was open: clicks, runs, choices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.sql import ColumnElement

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


def forget_earlier(c: Connection, turn: Turn) -> None:
    """Remove what its client did before a turn, of its kind, at the same case and model."""
    same = _at(turn.case_id, turn.client_id, turn.recipe, turn.champion, turn.kind)
    c.execute(delete(TURNS).where(*same, TURNS.c.id < turn.id))


def forget_turns(
    c: Connection,
    client_id: str,
    kind: str,
    recipe: str | None,
    is_meant: Callable[[dict[str, Any]], bool],
) -> int:
    """Remove those of a client's turns of one kind, with one model or (None) any, whose payload is meant.

    Returns:
        How many were removed.
    """
    wanted = select(TURNS.c.id, TURNS.c.payload_json).where(
        TURNS.c.client_id == client_id, TURNS.c.kind == kind
    )
    if recipe is not None:
        wanted = wanted.where(TURNS.c.recipe == recipe)
    meant = [row.id for row in c.execute(wanted).all() if is_meant(json.loads(row.payload_json))]
    for key in meant:
        c.execute(delete(TURNS).where(TURNS.c.id == key))
    return len(meant)


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
        .where(*_at(case_id, client_id, recipe, champion, kind))
        .order_by(TURNS.c.id.desc())
        .limit(1)
    )
    row = c.execute(wanted).first()
    return None if row is None else _turn(row)


def _at(
    case_id: str, client_id: str, recipe: str, champion: str, kind: str
) -> tuple[ColumnElement[bool], ...]:
    columns = TURNS.c
    return (
        columns.case_id == case_id,
        columns.client_id == client_id,
        columns.recipe == recipe,
        columns.champion == champion,
        columns.kind == kind,
    )


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
