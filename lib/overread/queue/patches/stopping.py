"""When to stop asking for patches: how much the next one would still correct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, func, select

from overread.queue.patches.candidates import PatchView
from overread.queue.patches.occupied import PATCHES
from overread.queue.stop import StopAdvice, expected_gain
from overread.state.labels import LabelRow, labels
from overread.state.schema import LABELS, SERVINGS

# Where these give a score, it is the doubt in the patch.
BY_DOUBT = ("most_uncertain", "clasp_pe", "sure_and_unsure")


@dataclass(frozen=True, eq=False)
class WaitingPatches:
    """The most doubtful free patch of each slide.

    Attributes:
        doubt: in nat, NaN where nothing is scored or free; quality: is not known of patches.
    """

    doubt: np.ndarray
    quality: np.ndarray

    @classmethod
    def of(cls, view: PatchView) -> WaitingPatches:
        """What waits in a view."""
        doubt = np.array(
            [
                np.where(free & np.isfinite(table.doubt), table.doubt, -np.inf).max(initial=-np.inf)
                for table, free in zip(view.tables, view.free, strict=True)
            ]
        )
        return cls(np.where(np.isfinite(doubt), doubt, np.nan), np.full(len(doubt), np.nan))


class PatchAdvisor:
    """Learns from the accepted patches of one recipe what another one would correct; see `queue/stop.py`."""

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe
        self._known: tuple[object, list[LabelRow], dict[tuple[str, str], tuple[float, float]]] = (
            None,
            [],
            {},
        )

    def advice(self, c: Connection, view: PatchView) -> StopAdvice | None:
        """What is expected of the best patch that waits; None while that is not known."""
        mine = (LABELS.c.recipe == self._recipe, LABELS.c.case_id.like(PATCHES))
        counted = select(LABELS.c.status, func.count(), func.max(LABELS.c.id)).where(*mine)
        key = c.execute(counted.group_by(LABELS.c.status).order_by(LABELS.c.status)).all()
        if key != self._known[0]:
            rows = [agreed(row) for row in labels(c, recipe=self._recipe)]
            self._known = (key, rows, self._what_was_said(c, rows))
        return expected_gain(self._known[1], WaitingPatches.of(view), self._known[2])

    def _what_was_said(
        self, c: Connection, rows: Sequence[LabelRow]
    ) -> dict[tuple[str, str], tuple[float, float]]:
        """Doubt of the labelled patches when they were served."""
        wanted = select(SERVINGS.c.id, SERVINGS.c.score).where(
            SERVINGS.c.recipe == self._recipe,
            SERVINGS.c.case_id.like(PATCHES),
            SERVINGS.c.strategy.in_(BY_DOUBT),
            SERVINGS.c.score.is_not(None),
        )
        doubt = {row.id: row.score for row in c.execute(wanted)}
        return {
            (row.champion, row.case_id): (doubt[row.serving_id], np.nan)
            for row in rows
            if row.serving_id in doubt
        }


def agreed(row: LabelRow) -> LabelRow:
    """A patch in which neither champion nor reader saw anything has no Dice: nothing was corrected in it."""
    if row.dice_to_proposal is None and row.details.get("voxels_changed") == 0:
        return replace(row, dice_to_proposal=1.0)
    return row
