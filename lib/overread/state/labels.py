"""Where each accepted label came from, and whether it may be learnt from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, update

from overread.domain.errors import NotFoundError
from overread.state.rows import finite, one_of, to_json
from overread.state.schema import LABELS

ACCEPTED = "accepted"
APPROVED = "approved"
FLAGGED = "flagged"
QUARANTINED = "quarantined"
WITHDRAWN = "withdrawn"
STATUSES = (ACCEPTED, APPROVED, FLAGGED, QUARANTINED, WITHDRAWN)


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One accepted label.

    Attributes:
        case_id: of the image.
        patient: whose it is.
        rater: who made it.
        client_id: from which client it came.
        revision: 1, 2, … per case and rater.
        file: below the label store; no two rows share one.
        sha256: of that file.
        tag: `final`, `original`, `version_N`.
        status: one of `STATUSES`.
        status_reason: why, in words; empty for a label that was simply accepted.
        recipe: the model's name.
        champion: identity of the ensemble that proposed; empty where none did.
        serving_id: that the label answers; None where the case was opened by hand.
        strategy: by which the case was chosen; empty where it was opened by hand.
        arm: `servings.STRATEGY`, `servings.CONTROL`, or empty where the case was opened by hand.
        reason: what the reader was told.
        took_s: from serving to submitting; None where nothing was served.
        dice_to_proposal: mean Dice between proposed and accepted, over classes; None where nothing was proposed.
        details: Dice per class, the interactions, and what else belongs to the label.
        partial: some voxels are `IGNORE`.
        protected: judges challengers and is never trained on.
        submitted_at: when.
        id: given by the database; 0 before.
    """

    case_id: str
    patient: str
    rater: str
    client_id: str
    revision: int
    file: str
    sha256: str
    tag: str
    status: str = ACCEPTED
    status_reason: str = ""
    recipe: str
    champion: str
    serving_id: int | None = None
    strategy: str = ""
    arm: str = ""
    reason: str = ""
    took_s: float | None = None
    dice_to_proposal: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    partial: bool
    protected: bool
    submitted_at: float
    id: int = 0


def add_label(c: Connection, row: LabelRow) -> int:
    """Keep the row; its id. What the row says for `id` does not matter.

    Raises:
        BadInputError: the status is unknown or a number is not finite.
    """
    what = f"label of case {row.case_id} by {row.rater}"
    one_of(row.status, STATUSES, "status")
    finite(row.took_s, f"{what}: took_s")
    finite(row.dice_to_proposal, f"{what}: dice_to_proposal")
    values = asdict(row)
    del values["id"]
    values["details_json"] = to_json(values.pop("details"), f"{what}: details")
    key = c.execute(insert(LABELS).values(values)).inserted_primary_key
    assert key is not None
    return key[0]


def labels(
    c: Connection, recipe: str | None = None, case_id: str | None = None, prefix: str | None = None
) -> list[LabelRow]:
    """Labels of a recipe and of a case (None: of all), whatever their status, oldest first.

    Args:
        prefix: only of cases whose id begins so.
    """
    wanted = select(LABELS).order_by(LABELS.c.id)
    if recipe is not None:
        wanted = wanted.where(LABELS.c.recipe == recipe)
    if case_id is not None:
        wanted = wanted.where(LABELS.c.case_id == case_id)
    if prefix is not None:
        wanted = wanted.where(LABELS.c.case_id.startswith(prefix, autoescape=True))
    found = []
    for row in c.execute(wanted):
        values = dict(row._mapping)
        found.append(LabelRow(details=json.loads(values.pop("details_json")), **values))
    return found


def protections(c: Connection, recipe: str, patient: str) -> list[bool]:
    """Of each label of a patient for a recipe, whether it is protected."""
    wanted = select(LABELS.c.protected).where(LABELS.c.recipe == recipe, LABELS.c.patient == patient)
    return list(c.execute(wanted).scalars())


@dataclass(frozen=True)
class LabelCount:
    """How many labels agree in all of these.

    Attributes:
        recipe, champion, status: as in `LabelRow`.
        dice: to the proposal, rounded to three digits; None where nothing was proposed.
        labels: how many.
    """

    recipe: str
    champion: str
    status: str
    dice: float | None
    labels: int


def count_labels(c: Connection) -> list[LabelCount]:
    """All labels, counted; without reading their details."""
    table = LABELS.c
    counts: Counter[tuple[str, str, str, float | None]] = Counter()
    for recipe, champion, status, dice in c.execute(
        select(table.recipe, table.champion, table.status, table.dice_to_proposal)
    ):
        counts[recipe, champion, status, None if dice is None else round(dice, 3)] += 1
    return [LabelCount(*facts, labels=number) for facts, number in counts.items()]


def set_status(c: Connection, label_id: int, status: str, reason: str) -> None:
    """Change what may be done with a label.

    Raises:
        BadInputError: the status is unknown.
        NotFoundError: there is no such label.
    """
    one_of(status, STATUSES, "status")
    changed = c.execute(
        update(LABELS).where(LABELS.c.id == label_id).values(status=status, status_reason=reason)
    ).rowcount
    if not changed:
        raise NotFoundError(f"there is no label {label_id}")
