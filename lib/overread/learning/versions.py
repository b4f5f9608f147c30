"""Two memories of which weights are in service, kept in step: the champion store and the database.

The store's manifest decides what is served; the database remembers why. A promotion changes both, in this order:

    1. the challenger's folder is in the store                     (not in service)
    2. one transaction: the decision (not applied), the model rows, the audit log
    3. the manifest names the challenger                           (in service)
    4. one transaction: the decision is applied, the model rows and the audit log say so

`settle` does steps 3 and 4 for whatever is missing, so that a crash anywhere is mended by the next start.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from sqlalchemy import Connection

from overread.domain import BadInputError
from overread.ensemble.storage import read_description
from overread.learning.champions import HASH_LENGTH, ChampionStore, Version
from overread.learning.gate import Decision
from overread.state import audit
from overread.state.database import Database
from overread.state.decisions import DecisionRow, add_decision, decisions, mark_applied
from overread.state.models import (
    CHALLENGER,
    CHAMPION,
    REJECTED,
    RETIRED,
    ModelRow,
    model,
    models,
    put_model,
    set_model_status,
)

log = logging.getLogger(__name__)

ACTOR = "gate"


def record_decision(
    database: Database, recipe: str, challenger: Path, decision: Decision, now: float, cycle: str = ""
) -> int:
    """Step 2: keep a decision about a challenger whose folder is in the store, if it was promoted.

    A decision that was kept before a crash, by the same cycle about the same challenger, is found and not doubled.

    Args:
        challenger: its ensemble folder, wherever it lies.
        cycle: who asks; see `learning.cycle`.

    Returns:
        The decision's id. Call `settle` to apply it.
    """
    description = read_description(challenger)
    with database.writing() as c:
        for row in decisions(c, recipe):
            if (
                row.challenger == decision.challenger
                and row.champion == decision.champion
                and row.report.get("cycle") == cycle
            ):
                return row.id
        put_model(
            c,
            ModelRow(
                recipe=recipe,
                identity=decision.challenger,
                parent=str(description.get("parent") or decision.champion)[:HASH_LENGTH],
                status=CHALLENGER if decision.promoted else REJECTED,
                manifest=description,
                created_at=now,
            ),
        )
        identifier = add_decision(
            c,
            recipe=recipe,
            champion=decision.champion,
            challenger=decision.challenger,
            promoted=decision.promoted,
            # A rejection leaves the store as it is: nothing remains to be done.
            applied=not decision.promoted,
            reason=decision.reason,
            report={**decision.to_json(), "cycle": cycle},
            now=now,
        )
        audit.append(
            c,
            actor=ACTOR,
            action="gate decided",
            subject=f"{recipe} {decision.challenger}",
            details={"decision": identifier, "promoted": decision.promoted, "reason": decision.reason},
            now=now,
        )
        return identifier


def settle(database: Database, store: ChampionStore, now: float | None = None) -> list[str]:
    """Bring the manifests in line with the decisions, and the database in line with the manifests.

    Run it at every start and after every decision; where all is in step it changes nothing.

    Args:
        now: seconds since 1970; None reads the clock.

    Returns:
        What was done, a sentence each.
    """
    now = time.time() if now is None else now
    with database.reading() as c:
        waiting = [row for row in decisions(c) if row.promoted and not row.applied]
    done: list[str] = []
    for recipe in sorted({row.recipe for row in waiting} | set(store.recipes())):
        try:
            done += [_apply(database, store, row, now) for row in waiting if row.recipe == recipe]
            done += _follow(database, recipe, store.versions(recipe), now)
        except BadInputError as error:
            # One damaged recipe must not keep the others from being served.
            log.error("%s cannot be settled: %s", recipe, error)
    for sentence in done:
        log.info("%s", sentence)
    return done


def roll_back(
    database: Database | None,
    store: ChampionStore,
    recipe: str,
    to: str | None = None,
    *,
    actor: str,
    now: float,
) -> Path:
    """Put an earlier champion back into service, and say so in the database where there is one.

    A decision that waits to be applied is applied first, so that it does not come back later.

    Returns:
        The folder in service.

    Raises:
        BadInputError, NotFoundError: see `ChampionStore.rollback`.
    """
    if database is None:
        return store.rollback(recipe, to)
    settle(database, store, now)
    history = store.history(recipe)
    target = store.rollback(recipe, to)
    with database.writing() as c:
        audit.append(
            c,
            actor=actor,
            action="rolled back",
            subject=f"{recipe} {target.name}",
            details={"from": history[-1].champion, "to": target.name},
            now=now,
        )
    settle(database, store, now)
    return target


def _apply(database: Database, store: ChampionStore, row: DecisionRow, now: float) -> str:
    """Steps 3 and 4 for one decision."""
    what = f"{row.challenger} of {row.recipe}"
    action, done = "champion promoted", f"{what} is the champion, as decided"
    if _was_promoted(database, store, row):
        done = f"{what} had been promoted already; the decision is marked as applied"
    else:
        try:
            store.promote(row.recipe, row.challenger, why=row.reason, instead_of=row.champion)
        except BadInputError as error:
            # Somebody published another champion meanwhile, or took the folder away: it stays with what is served.
            action, done = "promotion dropped", f"{what} was not promoted after all: {error}"
    with database.writing() as c:
        if any(known.id == row.id and known.applied for known in decisions(c, row.recipe)):
            return done
        mark_applied(c, row.id)
        if action == "promotion dropped":
            set_model_status(c, row.recipe, row.challenger, REJECTED)
        audit.append(
            c,
            actor=ACTOR,
            action=action,
            subject=f"{row.recipe} {row.challenger}",
            details={"decision": row.id, "instead_of": row.champion, "outcome": done},
            now=now,
        )
    return done


def _was_promoted(database: Database, store: ChampionStore, row: DecisionRow) -> bool:
    """Whether the manifest has a promotion of the challenger that no earlier decision accounts for.

    The same challenger may be promoted again after it was rolled back.
    """
    terms = [
        term for term in store.history(row.recipe) if term.champion == row.challenger and not term.rollback
    ]
    with database.reading() as c:
        applied = [
            d for d in decisions(c, row.recipe) if d.challenger == row.challenger and d.promoted and d.applied
        ]
    # Another process may have been faster.
    return any(decision.id == row.id for decision in applied) or len(terms) > len(applied)


def _follow(database: Database, recipe: str, versions: list[Version], now: float) -> list[str]:
    """Model rows as the manifest has it: who is champion, who was."""
    with database.reading() as c:
        if not _differences(c, recipe, versions) and not _gone(c, recipe, versions):
            return []
    done = []
    with database.writing() as c:
        for version, status in _differences(c, recipe, versions):
            known = model(c, recipe, version.identity)
            if known is None:
                put_model(
                    c,
                    ModelRow(recipe, version.identity, version.parent, status, version.description, now),
                )
            else:
                set_model_status(c, recipe, version.identity, status)
            done.append(f"{version.identity} of {recipe} is now noted as {status}")
        for identity in _gone(c, recipe, versions):
            set_model_status(c, recipe, identity, RETIRED)
            done.append(f"{identity} of {recipe} is gone from the store and noted as {RETIRED}")
    return done


def _differences(c: Connection, recipe: str, versions: list[Version]) -> list[tuple[Version, str]]:
    """Versions whose row is missing or says something else, with what it should say."""
    rows = {row.identity: row.status for row in models(c, recipe)}
    found = []
    for version in versions:
        if not version.terms:
            continue
        status = CHAMPION if version.is_champion else RETIRED
        if rows.get(version.identity) != status:
            found.append((version, status))
    return found


def _gone(c: Connection, recipe: str, versions: list[Version]) -> list[str]:
    """Champions by their row whose folder is not in the store any more."""
    present = {version.identity for version in versions}
    return [
        row.identity for row in models(c, recipe) if row.status == CHAMPION and row.identity not in present
    ]
