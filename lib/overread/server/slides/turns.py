"""Points in a rectangle of a slide as turns with a MedUHIP champion: it answers to each, and each is honoured.

QuPath sends all points of a rectangle each time, and no candidates can be picked there: outlines of four candidates on
top of each other are nothing to click into.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from overread.domain import Grid
from overread.ensemble.slides.prediction import SlidePrediction
from overread.imaging.slides.slide import Slide
from overread.imaging.volumes import Volume
from overread.meduhip.session import begin
from overread.server.labels import BACKGROUND
from overread.server.meduhip.clicks import Clicks, Said
from overread.server.meduhip.encoded import EncodedImages, Opened
from overread.server.meduhip.sittings import Sitting, Sittings, Who
from overread.server.meduhip.turns import Turns
from overread.server.models import ServedModels
from overread.server.slides.opened import version_of


class SlideTurns:
    """Turns at rectangles of slides.

    Args:
        encoded: rectangles that were encoded.
        sittings: where each client is at each of them.
    """

    def __init__(self, models: ServedModels, encoded: EncodedImages, sittings: Sittings) -> None:
        self._models, self._encoded, self._sittings = models, encoded, sittings

    def after(
        self,
        recipe: str,
        client: str,
        slide: Slide,
        prediction: SlidePrediction,
        clicks: Sequence[tuple[int, int, str]],
    ) -> np.ndarray:
        """What the champion says after clicks: class indices `(row, column)` at the prediction's pixels.

        Args:
            client: whose clicks they are.
            prediction: of the rectangle, before any click.
            clicks: row, column and class name, or `background`; oldest first.
        """
        reader = self._models.reader(recipe)
        key = f"{version_of(slide.path)} {list(prediction.region.bbox)}"
        # Viewers send all clicks again, so nothing has to outlive the server.
        who = Who(None, client, recipe, reader.identity, key)
        with self._models.turn:
            opened = self._encoded.get((key, reader.identity))
            if opened is None:
                picture = slide.read_into(prediction.region, prediction.labels.size)
                voxels = np.ascontiguousarray(picture.transpose(2, 1, 0), np.float32)
                grid = Grid(voxels.shape[1:], np.eye(4))
                opened = Opened(reader.open(Volume(voxels, grid), self._models.device), grid)
                self._encoded.put((key, reader.identity), opened, opened.image.bytes)
            turns = Turns(reader.model, opened, reader.classes)
            sitting = self._sittings.last(who)
            if sitting is None:
                session = begin(reader.model, key, reader.identity)
                sitting = Sitting(session, session)
            said = tuple(
                Said("click", name, name != BACKGROUND, (column, row)) for row, column, name in clicks
            )
            sitting, view = turns.take(sitting, Clicks(said), "", None)
            view = view or turns.view(sitting)
        self._sittings.keep(who, sitting, 0.0)
        return np.ascontiguousarray(view.labels.T)
