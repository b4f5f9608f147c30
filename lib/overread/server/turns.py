"""What a client asked about a case, kept until the case's label says what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from overread.meduhip.session import SITTING
from overread.state.database import Database
from overread.state.turns import Turn, add_turn, turns_of

INFERENCE = "inference"
# Turns that are kept to go on from. Each holds a whole session; the inference beside it says what was asked.
STATES = (SITTING,)
# A parameter that takes more JSON than this is no choice or click, and is left out.
LONGEST_JSON = 4000


def record_turn(
    database: Database,
    *,
    case_id: str,
    client_id: str,
    recipe: str,
    champion: str,
    kind: str,
    params: Mapping[str, Any],
    now: float,
) -> Turn:
    """Keep that a client asked about a case, with those of its parameters that are small JSON."""
    with database.writing() as c:
        return add_turn(
            c,
            case_id=case_id,
            client_id=client_id,
            recipe=recipe,
            champion=champion,
            kind=kind,
            payload=small_json(params),
            now=now,
        )


def small_json(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are finite JSON of at most `LONGEST_JSON` characters."""
    kept = {}
    for key, value in params.items():
        try:
            if len(json.dumps(value, allow_nan=False)) <= LONGEST_JSON:
                kept[str(key)] = value
        except (TypeError, ValueError):
            continue
    return kept


def interactions_of(database: Database, case_id: str, client_id: str) -> list[dict[str, Any]]:
    """What a client asked about a case, oldest first."""
    with database.reading() as c:
        turns = turns_of(c, case_id, client_id)
    return [
        {"kind": turn.kind, "champion": turn.champion, "at": turn.at, "asked": turn.payload}
        for turn in turns
        if turn.kind not in STATES
    ]
