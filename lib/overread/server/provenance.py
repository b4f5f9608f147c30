"""Where a submitted label comes from, and what its clinician is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from overread.domain import OverreadError
from overread.learning.accepted import Submission
from overread.server.maps import Proposal
from overread.server.turns import interactions_of
from overread.state.database import Database
from overread.state.labels import LabelRow
from overread.state.servings import serving_for

logger = logging.getLogger(__name__)


def submission_of(
    database: Database,
    case_id: str,
    client_id: str,
    *,
    rater: str,
    patient: str,
    tag: str,
    recipe: str | None,
    classes: Sequence[str] | None,
    shape: tuple[int, ...],
    proposal: Callable[[], Proposal | None],
) -> Submission:
    """A label's origin: how its case came to the client, what was asked, and what was proposed to this very client.

    Args:
        shape: of the image.
        proposal: gives what was proposed last, to this client or else to another one.
    """
    with database.reading() as c:
        serving = serving_for(c, case_id, client_id)
    try:
        proposed = proposal()
    except OverreadError:
        # How much was corrected is worth less than the label.
        logger.exception("What was proposed for image %s cannot be read", case_id)
        proposed = None
    if proposed is not None and not (proposed.shown_to_client and proposed.labels.size == np.prod(shape)):
        proposed = None
    return Submission(
        case_id=case_id,
        patient=patient,
        rater=rater,
        client_id=client_id,
        recipe=recipe or "",
        champion=proposed.champion if proposed else "",
        tag=tag,
        interactions=interactions_of(database, case_id, client_id),
        serving=serving,
        proposal=proposed.labels.reshape(shape) if proposed else None,
        classes=classes or (),
    )


def label_facts(row: LabelRow) -> dict[str, Any]:
    """What clients are told of an accepted label. Not whether it is protected: raters are not to know."""
    return {
        "id": row.id,
        "file": row.file,
        "rater": row.rater,
        "revision": row.revision,
        "champion": row.champion,
        "dice_to_proposal": row.dice_to_proposal,
        "dice": row.details.get("dice", {}),
        "voxels_changed": row.details.get("voxels_changed"),
        "partial": row.partial,
        "took_s": row.took_s,
    }
