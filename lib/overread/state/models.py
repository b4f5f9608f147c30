"""Every set of weights that was ever made for a recipe, and what became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from overread.domain.errors import NotFoundError
from overread.state.rows import one_of, to_json
from overread.state.schema import MODELS

CHAMPION = "champion"
CHALLENGER = "challenger"
REJECTED = "rejected"
RETIRED = "retired"
STATUSES = (CHAMPION, CHALLENGER, REJECTED, RETIRED)


@dataclass(frozen=True)
class ModelRow:
    """One set of weights.

    Attributes:
        recipe: the model's name.
        identity: of the ensemble's folder.
        parent: identity of what it was trained from; empty where it was trained from scratch.
        status: one of `STATUSES`.
        manifest: weights, recipe, hashes of the data, metrics.
        created_at: when.
    """

    recipe: str
    identity: str
    parent: str
    status: str
    manifest: dict[str, Any]
    created_at: float


def put_model(c: Connection, row: ModelRow) -> None:
    """Keep the row; an earlier one of the same recipe and identity is replaced.

    Raises:
        BadInputError: the status is unknown or a number in the manifest is not finite.
    """
    one_of(row.status, STATUSES, "status")
    manifest = to_json(row.manifest, f"manifest of {row.recipe} {row.identity}")
    # Writers follow each other, so nothing comes between the two.
    c.execute(delete(MODELS).where(MODELS.c.recipe == row.recipe, MODELS.c.identity == row.identity))
    c.execute(
        insert(MODELS).values(
            recipe=row.recipe,
            identity=row.identity,
            parent=row.parent,
            status=row.status,
            manifest_json=manifest,
            created_at=row.created_at,
        )
    )


def model(c: Connection, recipe: str, identity: str) -> ModelRow | None:
    """The row of one set of weights; None where it is not known."""
    return next((row for row in models(c, recipe) if row.identity == identity), None)


def models(c: Connection, recipe: str | None = None) -> list[ModelRow]:
    """The models of a recipe (None: of all), oldest first."""
    wanted = select(MODELS).order_by(MODELS.c.created_at, MODELS.c.recipe, MODELS.c.identity)
    if recipe is not None:
        wanted = wanted.where(MODELS.c.recipe == recipe)
    return [
        ModelRow(
            recipe=row.recipe,
            identity=row.identity,
            parent=row.parent,
            status=row.status,
            manifest=json.loads(row.manifest_json),
            created_at=row.created_at,
        )
        for row in c.execute(wanted)
    ]


def set_model_status(c: Connection, recipe: str, identity: str, status: str) -> None:
    """Say what became of a model.

    Raises:
        BadInputError: the status is unknown.
        NotFoundError: there is no such model.
    """
    one_of(status, STATUSES, "status")
    changed = c.execute(
        update(MODELS).where(MODELS.c.recipe == recipe, MODELS.c.identity == identity).values(status=status)
    ).rowcount
    if not changed:
        raise NotFoundError(f"model {recipe} has no version {identity}")
