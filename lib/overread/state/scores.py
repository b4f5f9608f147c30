"""What a champion says of each case, so that no case is scored twice."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection, Table, and_, delete, func, insert, select
from sqlalchemy.sql import ColumnElement

from overread.state.rows import finite, to_json
from overread.state.schema import DOUBT_PARTS, SCORES

# In place of a champion: the row holds what the image alone says, its features.
COLD = ""


@dataclass(frozen=True)
class ScoreRow:
    """One case under one champion.

    Attributes:
        recipe: the model's name.
        champion: identity of the ensemble, or `COLD`.
        case_id: of the image.
        revision: of the image's file; a score of another revision is out of date.
        doubt: acquisition score, in nat; None where there is no champion or an error.
        quality: 1 - mean pairwise Dice of the members; None where it is not known.
        class_doubt: doubt per foreground class, in nat.
        foreground_mm3: predicted volume per foreground class.
        features: where the case lies among others.
        took_s: time of scoring.
        error: why the case could not be scored; None where it could.
        scored_at: when.
        parts: mean of each part of the doubt (see `meduhip.doubt`); empty where the champion cannot tell them apart.
    """

    recipe: str
    champion: str
    case_id: str
    revision: str
    doubt: float | None
    quality: float | None
    class_doubt: dict[str, float]
    foreground_mm3: dict[str, float]
    features: tuple[float, ...]
    took_s: float
    error: str | None
    scored_at: float
    parts: dict[str, float] = field(default_factory=dict)


def put_score(c: Connection, row: ScoreRow) -> None:
    """Keep the score; an earlier one of the same recipe, champion and case is replaced.

    Raises:
        BadInputError: a number is not finite.
    """
    what = f"score of case {row.case_id}"
    values = {
        "recipe": row.recipe,
        "champion": row.champion,
        "case_id": row.case_id,
        "revision": row.revision,
        "doubt": finite(row.doubt, f"{what}: doubt"),
        "quality": finite(row.quality, f"{what}: quality"),
        "class_doubt_json": to_json(
            {k: float(v) for k, v in row.class_doubt.items()}, f"{what}: class_doubt"
        ),
        "foreground_mm3_json": to_json(
            {k: float(v) for k, v in row.foreground_mm3.items()}, f"{what}: foreground_mm3"
        ),
        "features_json": to_json([float(v) for v in row.features], f"{what}: features"),
        "took_s": finite(row.took_s, f"{what}: took_s"),
        "error": row.error,
        "scored_at": row.scored_at,
    }
    parts_json = to_json({k: float(v) for k, v in row.parts.items()}, f"{what}: parts")
    place = {"recipe": row.recipe, "champion": row.champion, "case_id": row.case_id}
    # Writers follow each other, so nothing comes between these.
    for table in (SCORES, DOUBT_PARTS):
        c.execute(delete(table).where(*_at(table, **place)))
    c.execute(insert(SCORES).values(values))
    if row.parts:
        c.execute(insert(DOUBT_PARTS).values(place | {"parts_json": parts_json}))


def _at(table: Table, recipe: str, champion: str, case_id: str) -> tuple[ColumnElement[bool], ...]:
    return table.c.recipe == recipe, table.c.champion == champion, table.c.case_id == case_id


def parts_of(c: Connection, recipe: str, champion: str, case_id: str) -> dict[str, float]:
    """The parts of a case's doubt by one champion; empty where they are not known."""
    wanted = select(DOUBT_PARTS.c.parts_json).where(*_at(DOUBT_PARTS, recipe, champion, case_id))
    return json.loads(c.execute(wanted).scalar() or "{}")


def scores_of(c: Connection, recipe: str, champion: str) -> dict[str, ScoreRow]:
    """All scores by one champion (or `COLD`), by case, also those that are an error."""
    same = [SCORES.c[name] == DOUBT_PARTS.c[name] for name in ("recipe", "champion", "case_id")]
    found = c.execute(
        select(SCORES, DOUBT_PARTS.c.parts_json)
        .outerjoin(DOUBT_PARTS, and_(*same))
        .where(SCORES.c.recipe == recipe, SCORES.c.champion == champion)
    )
    return {
        row.case_id: ScoreRow(
            recipe=recipe,
            champion=champion,
            case_id=row.case_id,
            revision=row.revision,
            doubt=row.doubt,
            quality=row.quality,
            class_doubt=json.loads(row.class_doubt_json),
            foreground_mm3=json.loads(row.foreground_mm3_json),
            features=tuple(json.loads(row.features_json)),
            took_s=row.took_s,
            error=row.error,
            scored_at=row.scored_at,
            parts=json.loads(row.parts_json or "{}"),
        )
        for row in found
    }


def count_scores(c: Connection, recipe: str, champion: str) -> int:
    """How many cases the champion (or `COLD`) has scored, without those that are an error."""
    wanted = select(func.count()).where(
        SCORES.c.recipe == recipe, SCORES.c.champion == champion, SCORES.c.error.is_(None)
    )
    return c.execute(wanted).scalar_one()


def forget_scores(c: Connection, recipe: str, keep: Collection[str]) -> int:
    """Drop the recipe's scores by champions that are not in `keep`; how many rows went.

    `COLD` is a champion like another here: name it in `keep` where the image features shall stay.
    """
    gone = [
        c.execute(delete(table).where(table.c.recipe == recipe, table.c.champion.not_in(list(keep))))
        for table in (DOUBT_PARTS, SCORES)
    ]
    return gone[-1].rowcount
