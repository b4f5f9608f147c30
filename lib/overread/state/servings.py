"""Cases handed to clients: a serving is a lease until it is submitted, skipped or expires."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, insert, select, update

from overread.domain.errors import NotFoundError, OverreadError
from overread.state.rows import finite, one_of
from overread.state.schema import SERVINGS

# Arms: chosen by the strategy, or drawn at random whatever the strategy.
STRATEGY = "strategy"
CONTROL = "control"
ARMS = (STRATEGY, CONTROL)

# Outcomes.
SUBMITTED = "submitted"
SKIPPED = "skipped"
EXPIRED = "expired"
OUTCOMES = (SUBMITTED, SKIPPED, EXPIRED)


class CaseTakenError(OverreadError):
    """Another client holds the case (HTTP 409)."""


@dataclass(frozen=True)
class Serving:
    """One case in the hands of one client.

    Attributes:
        id: of the serving.
        case_id: what was served.
        patient: whose it is.
        client_id: to whom.
        recipe: the model whose queue it was.
        champion: identity of the ensemble that the choice rests on; empty where there was none.
        strategy: by which the case was chosen.
        arm: `STRATEGY` or `CONTROL`.
        reason: what the reader was told.
        score: what the case was ranked by; None where chance decided.
        served_at: when.
        expires_at: when the lease ends by itself.
        ended_at: None while the serving is open.
        outcome: None while the serving is open; `SUBMITTED`, `SKIPPED` or `EXPIRED`.
    """

    id: int
    case_id: str
    patient: str
    client_id: str
    recipe: str
    champion: str
    strategy: str
    arm: str
    reason: str
    score: float | None
    served_at: float
    expires_at: float
    ended_at: float | None
    outcome: str | None


def serve(
    c: Connection,
    *,
    case_id: str,
    patient: str,
    client_id: str,
    recipe: str,
    champion: str,
    strategy: str,
    arm: str,
    reason: str,
    score: float | None,
    now: float,
    lease_s: float,
) -> Serving:
    """Hand the case to the client for `lease_s`.

    Raises:
        CaseTakenError: a serving of this case is open, whoever holds it; call `expire` first.
        BadInputError: the arm is unknown or the score is not finite.
    """
    open_one = c.execute(
        select(SERVINGS).where(SERVINGS.c.case_id == case_id, SERVINGS.c.ended_at.is_(None))
    ).first()
    if open_one is not None:
        raise CaseTakenError(
            f"case {case_id} is with client {open_one.client_id} for another "
            f"{max(open_one.expires_at - now, 0):.0f} s; ask for another case"
        )
    values = {
        "case_id": case_id,
        "patient": patient,
        "client_id": client_id,
        "recipe": recipe,
        "champion": champion,
        "strategy": strategy,
        "arm": one_of(arm, ARMS, "arm"),
        "reason": reason,
        "score": finite(score, f"score of case {case_id}"),
        "served_at": now,
        "expires_at": now + lease_s,
        "ended_at": None,
        "outcome": None,
    }
    key = c.execute(insert(SERVINGS).values(values)).inserted_primary_key
    assert key is not None
    return Serving(id=key[0], **values)


def expire(c: Connection, now: float) -> int:
    """End all servings whose lease is over, at the moment it was; how many."""
    return c.execute(
        update(SERVINGS)
        .where(SERVINGS.c.ended_at.is_(None), SERVINGS.c.expires_at <= now)
        .values(ended_at=SERVINGS.c.expires_at, outcome=EXPIRED)
    ).rowcount


def end(c: Connection, serving_id: int, outcome: str, now: float) -> None:
    """End a serving.

    One that has ended stays as it is, unless it is submitted after all: a label that comes after the lease, or after
    the client went on to another case, still answers the serving.

    Raises:
        BadInputError: the outcome is unknown.
        NotFoundError: there is no such serving.
    """
    one_of(outcome, OUTCOMES, "outcome")
    found = c.execute(select(SERVINGS).where(SERVINGS.c.id == serving_id)).first()
    if found is None:
        raise NotFoundError(f"there is no serving {serving_id}")
    if found.outcome is None or (outcome == SUBMITTED and found.outcome != SUBMITTED):
        c.execute(update(SERVINGS).where(SERVINGS.c.id == serving_id).values(ended_at=now, outcome=outcome))


def open_servings(c: Connection) -> list[Serving]:
    """All cases that are with a client, oldest first."""
    return [_serving(row) for row in c.execute(_ordered().where(SERVINGS.c.ended_at.is_(None)))]


def open_of_client(c: Connection, client_id: str) -> list[Serving]:
    """The cases that this client holds, oldest first."""
    mine = _ordered().where(SERVINGS.c.client_id == client_id, SERVINGS.c.ended_at.is_(None))
    return [_serving(row) for row in c.execute(mine)]


def serving_for(c: Connection, case_id: str, client_id: str) -> Serving | None:
    """The newest serving of the case to the client, open or not; None where there was none."""
    newest = (
        select(SERVINGS)
        .where(SERVINGS.c.case_id == case_id, SERVINGS.c.client_id == client_id)
        .order_by(SERVINGS.c.id.desc())
        .limit(1)
    )
    row = c.execute(newest).first()
    return None if row is None else _serving(row)


def servings(c: Connection, recipe: str | None = None, since: float | None = None) -> list[Serving]:
    """Servings of a recipe (None: of all), served at `since` or later (None: ever), oldest first."""
    wanted = _ordered()
    if recipe is not None:
        wanted = wanted.where(SERVINGS.c.recipe == recipe)
    if since is not None:
        wanted = wanted.where(SERVINGS.c.served_at >= since)
    return [_serving(row) for row in c.execute(wanted)]


def _ordered() -> Select:
    return select(SERVINGS).order_by(SERVINGS.c.id)


def _serving(row: Row) -> Serving:
    return Serving(**row._mapping)
