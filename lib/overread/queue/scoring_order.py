"""In which order cases are scored, and what is scored already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, func, select

from overread.queue.space import farthest_first, standardised
from overread.state.schema import SCORES
from overread.state.scores import COLD

# So many cases are spread over all images; those after them come in any order.
SPREAD = 300


def scoring_order(c: Connection, recipe: str, champion: str, cases: Sequence[str]) -> list[str]:
    """The cases, most useful first.

    Where the champion before has scored, by its doubt, highest first: those will most likely be asked about. Then, of
    the others, some that lie far apart by their images' features, so that what is ranked early stands for
    all; then the rest, in an order that has nothing to do with names.
    """
    doubt = _previous_doubt(c, recipe, champion)
    ranked = sorted((case for case in cases if case in doubt), key=lambda case: -doubt[case])
    others = sorted((case for case in cases if case not in doubt), key=_shuffled)
    features = _features(c, recipe) if others else {}
    known = [case for case in others if case in features]
    spread: list[str] = []
    if known:
        rows = standardised(np.array([features[case] for case in known]))
        spread = [known[row] for row in farthest_first(rows, SPREAD)]
    early = set(spread)
    return ranked + spread + [case for case in others if case not in early]


def revisions(c: Connection, recipe: str, champion: str, case: str | None = None) -> dict[str, str]:
    """Revision of the image under which each case was scored, also in vain; of one case only if named."""
    wanted = select(SCORES.c.case_id, SCORES.c.revision).where(
        SCORES.c.recipe == recipe, SCORES.c.champion == champion
    )
    if case is not None:
        wanted = wanted.where(SCORES.c.case_id == case)
    return {row.case_id: row.revision for row in c.execute(wanted)}


def champions_scored(c: Connection, recipe: str) -> list[str]:
    """Champions whose scores are kept, the one that scored last first."""
    wanted = (
        select(SCORES.c.champion)
        .where(SCORES.c.recipe == recipe, SCORES.c.champion != COLD)
        .group_by(SCORES.c.champion)
        .order_by(func.max(SCORES.c.scored_at).desc())
    )
    return list(c.execute(wanted).scalars())


def _previous_doubt(c: Connection, recipe: str, champion: str) -> dict[str, float]:
    """Doubt by the champion that scored last before this one."""
    before = [name for name in champions_scored(c, recipe) if name != champion]
    if not before:
        return {}
    wanted = select(SCORES.c.case_id, SCORES.c.doubt).where(
        SCORES.c.recipe == recipe, SCORES.c.champion == before[0], SCORES.c.doubt.is_not(None)
    )
    return {row.case_id: row.doubt for row in c.execute(wanted)}


def _features(c: Connection, recipe: str) -> dict[str, list[float]]:
    """Features of the images that were looked at; of the commonest length only."""
    wanted = select(SCORES.c.case_id, SCORES.c.features_json).where(
        SCORES.c.recipe == recipe, SCORES.c.champion == COLD, SCORES.c.error.is_(None)
    )
    found = {row.case_id: json.loads(row.features_json) for row in c.execute(wanted)}
    lengths = [len(features) for features in found.values()]
    commonest = max(set(lengths), key=lengths.count) if lengths else 0
    return {case: features for case, features in found.items() if len(features) == commonest > 0}


def _shuffled(case: str) -> bytes:
    return hashlib.sha256(case.encode()).digest()
