"""Which places of which slides need no question: served before, labelled, or skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, or_, select

from overread.domain import PatchLocation, Region
from overread.state.labels import WITHDRAWN
from overread.state.schema import LABELS, SERVINGS
from overread.state.servings import EXPIRED, SKIPPED

# Patches' names have this in them.
PATCHES = "%-patch-%"


@dataclass(frozen=True)
class Asked:
    """A patch that was handed out, each time it was.

    Attributes:
        location: slide and rectangle.
        champion: that was in service.
        outcome: of the serving; None while it is with a reader.
    """

    location: PatchLocation
    champion: str
    outcome: str | None


@dataclass(frozen=True)
class History:
    """What happened to the patches of one recipe.

    Attributes:
        asked: oldest first; of other recipes those that are with a reader.
        labelled: places of labels that are in use or under review.
        resting: names of patches that were skipped only recently.
    """

    asked: tuple[Asked, ...]
    labelled: tuple[PatchLocation, ...]
    resting: frozenset[str]

    @classmethod
    def of(cls, c: Connection, recipe: str, resting: Collection[str]) -> History:
        """Read servings and labels."""
        served = (
            select(SERVINGS.c.case_id, SERVINGS.c.champion, SERVINGS.c.outcome)
            .where(SERVINGS.c.case_id.like(PATCHES))
            .where(or_(SERVINGS.c.recipe == recipe, SERVINGS.c.ended_at.is_(None)))
            .order_by(SERVINGS.c.id)
        )
        labels = (
            select(LABELS.c.case_id)
            .where(LABELS.c.case_id.like(PATCHES), LABELS.c.recipe == recipe, LABELS.c.status != WITHDRAWN)
            .distinct()
        )
        asked = [(PatchLocation.parse(row.case_id), row.champion, row.outcome) for row in c.execute(served)]
        labelled = [PatchLocation.parse(name) for name in c.execute(labels).scalars()]
        return cls(
            tuple(Asked(place, champion, outcome) for place, champion, outcome in asked if place),
            tuple(place for place in labelled if place),
            frozenset(resting),
        )

    def occupied(self, *, expired: bool = True, skipped: bool = True) -> dict[str, list[Region]]:
        """Rectangles of each slide that are not asked about again.

        A place that was served several times is occupied as it was left last.

        Args:
            expired: also those that nobody answered.
            skipped: also those that were skipped and have rested.
        """
        last = {served.location: served.outcome for served in self.asked}
        found: dict[str, list[Region]] = {}
        for location, outcome in last.items():
            if outcome == EXPIRED and not expired:
                continue
            if outcome == SKIPPED and not skipped and location.name not in self.resting:
                continue
            found.setdefault(location.slide, []).append(location.region)
        for location in self.labelled:
            if location not in last or last[location] in (EXPIRED, SKIPPED):
                found.setdefault(location.slide, []).append(location.region)
        return found

    def answered(self) -> list[PatchLocation]:
        """Patches that are labelled or with a reader, each once."""
        counted = [served.location for served in self.asked if served.outcome not in (EXPIRED, SKIPPED)]
        return list(dict.fromkeys([*counted, *self.labelled]))

    def count_by_slide(self, champion: str) -> Counter[str]:
        """Patches of each slide that were handed out under this champion, without those that nobody answered."""
        served = {
            asked.location for asked in self.asked if asked.champion == champion and asked.outcome != EXPIRED
        }
        return Counter(location.slide for location in served)
