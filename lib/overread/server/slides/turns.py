"""Rectangles of a slide as turns with a MedUHIP champion: it begins as its reader usually draws, and answers to points.

QuPath sends all points of a rectangle each time, and no candidates can be picked there: outlines of four candidates on
top of each other are nothing to click into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overread.domain import Region
from overread.ensemble.slides.prediction import SlidePrediction
from overread.imaging.slides.slide import Slide
from overread.learning.patches import picture_of
from overread.meduhip.reader import Reader
from overread.server.labels import BACKGROUND
from overread.server.meduhip.clicks import Clicks, Said
from overread.server.meduhip.encoded import EncodedImages, Opened
from overread.server.meduhip.memory import Memory, ReadCase
from overread.server.meduhip.preferences import Wish
from overread.server.meduhip.sittings import Sittings, Who
from overread.server.meduhip.turns import Turns
from overread.server.models import ServedModels
from overread.server.slides.opened import version_of


@dataclass(frozen=True)
class Asker:
    """Who asks.

    Attributes:
        client: whose sitting it is, if only by address.
        person: whose preferences apply; empty where nobody says who they are.
        wish: what they say of them.
    """

    client: str
    person: str
    wish: Wish


@dataclass(frozen=True, eq=False)
class SlideTurn:
    """What the champion says.

    Attributes:
        labels: class indices `(row, column)` at the prediction's pixels; None where nothing was said and nothing is
            known of the person, so that the prediction stands.
        is_usual_style: whether it began with what is known of the person.
    """

    labels: np.ndarray | None
    is_usual_style: bool


class SlideTurns:
    """Turns at rectangles of slides.

    Args:
        encoded: rectangles that were encoded.
        sittings: where each client is at each of them.
        memory: where they begin.
        read_case: the picture of a patch, for a new champion.
    """

    def __init__(
        self,
        models: ServedModels,
        encoded: EncodedImages,
        sittings: Sittings,
        memory: Memory,
        read_case: ReadCase,
    ) -> None:
        self._models, self._encoded, self._sittings = models, encoded, sittings
        self._memory, self._read_case = memory, read_case

    def take(
        self,
        recipe: str,
        asker: Asker,
        slide: Slide,
        prediction: SlidePrediction,
        clicks: Sequence[tuple[int, int, str]],
    ) -> SlideTurn:
        """What the champion says after all clicks of a client.

        Args:
            prediction: of the rectangle, before any click and for anybody.
            clicks: row, column and class name, or `background`; oldest first.
        """
        reader = self._models.reader(recipe)
        self._memory.meet(recipe, reader.identity, self._read_case)
        # Viewers send all clicks again, so nothing has to outlive the server.
        who = Who(None, asker.client, recipe, reader.identity, _key(slide, prediction.region))
        sitting = self._sittings.last(who)
        # Without a click it is a first answer, from what is known by now.
        if sitting is None or not clicks or not self._memory.goes_on(sitting, who, asker.person, asker.wish):
            sitting = self._memory.begun(reader, who, asker.person, asker.wish)
        labels = None
        if clicks or sitting.has_prior:
            with self._models.turn:
                opened = self.opened(reader, slide, prediction.region, prediction.labels.size)
                turns = Turns(reader.model, opened, reader.classes)
                said = tuple(
                    Said("click", name, name != BACKGROUND, (column, row)) for row, column, name in clicks
                )
                sitting, view = turns.take(sitting, Clicks(said), "", None)
                view = view or turns.view(sitting)
            labels = np.ascontiguousarray(view.labels.T)
        self._sittings.keep(who, sitting, 0.0)
        return SlideTurn(labels, sitting.has_prior)

    def opened(
        self, reader: Reader, slide: Slide, region: Region, size: tuple[int, int], is_kept: bool = True
    ) -> Opened:
        """A rectangle, encoded. The caller holds the models' turn.

        Args:
            size: width and height in pixels of the model.
            is_kept: whether somebody may go on with it.
        """
        key = (_key(slide, region), size, reader.identity)
        opened = self._encoded.get(key)
        if opened is None:
            picture = picture_of(slide, region, size)
            opened = Opened(reader.open(picture, self._models.device), picture.grid)
            if is_kept:
                self._encoded.put(key, opened, opened.image.bytes)
        return opened


def _key(slide: Slide, region: Region) -> str:
    return f"{version_of(slide.path)} {list(region.bbox)}"
