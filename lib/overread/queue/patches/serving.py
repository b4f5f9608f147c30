"""The patch queue: which patch of which slide a client gets, why, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from overread.domain import PatchLocation, PixelSize, Region
from overread.queue.serving import Nothing
from overread.queue.settings import QueueSettings
from overread.state.database import Database
from overread.state.servings import Serving

if TYPE_CHECKING:
    from overread.ensemble.slides.maps import SlideMaps  # pyright: ignore


@dataclass(frozen=True, eq=False)
class SlideEntry:
    """A slide that may be asked about.

    Attributes:
        maps: what the champion says of the slide so far; None where it was never looked at.
        patient: whose it is.
        centre: where it was made; slides of one centre share a quota.
        size_px: width and height in level-0 pixels.
        pixel_size: of level 0.
        version: changes whenever `maps` would answer something else, so that it is asked only then. Where None,
            `maps` is asked each time.
    """

    maps: Callable[[], SlideMaps | None]
    patient: str
    centre: str
    size_px: tuple[int, int]
    pixel_size: PixelSize
    version: Hashable | None = None


@dataclass(frozen=True)
class ServedPatch:
    """A patch in a client's hands.

    Attributes:
        serving: the lease; its case is the patch's name.
        location: slide and rectangle.
        arm: `STRATEGY` or `CONTROL`.
        strategy: that chose it.
        reason: for the reader, in a clause.
        score: what it was ranked by; None where chance decided.
        is_coarse: the choice rests on a first look at the slide.
        text: the one line that the reader sees.
    """

    serving: Serving
    location: PatchLocation
    arm: str
    strategy: str
    reason: str
    score: float | None
    is_coarse: bool
    text: str


class PatchQueue:
    """Patches of one recipe's champion, one at a time to each client.

    Args:
        recipe: the model's name.
        champion: whose maps the slides' entries hold.
    """

    def __init__(
        self, database: Database, recipe: str, champion: str, settings: QueueSettings | None = None
    ) -> None:
        self.database, self.recipe, self.champion = database, recipe, champion
        self.settings = settings or QueueSettings()

    def warm(self, slides: Mapping[str, SlideEntry], patch_px: tuple[int, int] | None = None) -> None:
        """Make ready what `ask` needs of these slides; for a thread that nobody waits for."""
        raise NotImplementedError

    def ask(
        self,
        strategy: str | None,
        client_id: str,
        slides: Mapping[str, SlideEntry],
        slide: str | None,
        patch_px: tuple[int, int] | None,
        now: float,
        rng: np.random.Generator,
        annotated: Mapping[str, Sequence[Region]] | None = None,
    ) -> ServedPatch | Nothing:
        """Hand the next patch to a client.

        Args:
            strategy: a name of `PATCH_STRATEGIES`; the settings' where None.
            client_id: who asks; `""` may be several people.
            slides: all that may be asked about.
            slide: only this one; any where None.
            patch_px: width and height in level-0 pixels; about 1 mm where None.
            now: seconds since 1970.
            annotated: further places of each slide that need no question.

        Raises:
            NotFoundError: no such strategy or slide.
            BadInputError: the patch is empty.
        """
        raise NotImplementedError
