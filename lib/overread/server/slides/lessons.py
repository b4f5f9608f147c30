"""What accepted labels of rectangles teach about how their makers draw, where a MedUHIP champion was asked there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from overread.domain import BadInputError
from overread.domain.slides import PatchLocation
from overread.imaging.volumes import read_labelmap
from overread.learning.accepted import AcceptedLabels
from overread.learning.preferences import MOST_EXAMPLES
from overread.meduhip.storage import KIND as MEDUHIP
from overread.server.meduhip.memory import Memory, teaches
from overread.server.meduhip.preferences import Wish
from overread.server.models import ServedModels
from overread.server.slides.opened import OpenedSlides
from overread.server.slides.regions import RECTANGLE
from overread.server.slides.request import Place
from overread.server.slides.store import SlideStore
from overread.server.slides.submissions import OF, UM_PER_PX
from overread.server.slides.turns import SlideTurns
from overread.server.turns import INFERENCE
from overread.state.labels import LabelRow
from overread.state.turns import turns_of


class SlideLessons:
    """Lets preferences learn from labels of slides.

    Args:
        accepted: where the labels are.
        turns: at rectangles; most of those that are submitted were looked at a moment ago.
        memory: what learns.
    """

    def __init__(
        self,
        store: SlideStore,
        slides: OpenedSlides,
        models: ServedModels,
        accepted: AcceptedLabels,
        turns: SlideTurns,
        memory: Memory,
    ) -> None:
        self._store, self._slides, self._models, self._accepted = store, slides, models, accepted
        self._turns, self._memory = turns, memory

    def labels_accepted(self, person: str, rows: Sequence[LabelRow]) -> None:
        """Let a person's preferences learn from labels, some time soon.

        Only from rectangles all of which were judged: around a single object nothing is known, and one that fills its
        own box says nothing of how wide it is drawn.
        """
        judged = [row for row in rows if row.details.get(OF) == RECTANGLE and not row.partial]
        # Of more than a preference rests on, the first would be forgotten at once.
        for row in judged[-MOST_EXAMPLES:]:
            self._memory.learn(row.case_id, partial(self._teach, person, row))

    def _teach(self, person: str, row: LabelRow) -> None:
        place = PatchLocation.parse(row.case_id)
        asked = None if place is None else self._asked_last(person, place, row)
        if place is None or asked is None:
            return
        recipe, wish = asked
        labels = read_labelmap(self._accepted.folder / row.file)[0][..., 0]
        if not teaches(wish, labels):
            return
        reader = self._models.reader(recipe)
        with self._slides.open(self._store.slide(place.slide)) as slide, self._models.turn:
            size = (labels.shape[0], labels.shape[1])
            opened = self._turns.opened(reader, slide, place.region, size, is_kept=False)
            self._memory.accepted(
                person, recipe, wish.purpose, reader, opened.image, labels, place.name, row.submitted_at
            )

    def _asked_last(self, person: str, place: PatchLocation, row: LabelRow) -> tuple[str, Wish] | None:
        """Of the MedUHIP models that know a label's classes, the one that its maker asked last about a rectangle which
        the label lies in or touches, and with which preferences; None where none was asked there.
        """
        with self._accepted.database.reading() as c:
            turns = turns_of(c, place.slide, person)
        for turn in reversed(turns):
            if turn.kind != INFERENCE or turn.at > row.submitted_at or not self._fits(turn.recipe, row):
                continue
            try:
                region = Place.read(turn.payload).region
                wish = Wish.read(turn.payload, self._models.settings.preference)
            except BadInputError:
                continue
            if region is None or region.overlaps(place.region):
                return turn.recipe, wish
        return None

    def _fits(self, recipe: str, row: LabelRow) -> bool:
        """Whether a label is in the classes and the pixels of a MedUHIP model that is served."""
        if recipe not in self._models.names():
            return False
        description = self._models.description(recipe)
        mine = (description["kind"], list(description["classes"]), description["plan"].get("um_per_px"))
        return mine == (MEDUHIP, list(row.details.get("classes", ())), row.details.get(UM_PER_PX))
