"""The memory of preferences in a running server: where a sitting begins, what accepted labels teach, new champions.

Learning takes about as long as a turn or two. It is done in the background: no reader waits for it, and no label is
refused because of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from overread.domain.labels import IGNORE
from overread.imaging.volumes import Volume
from overread.learning.preferences import Preferences
from overread.meduhip.reader import OpenImage, Reader
from overread.meduhip.session import begin
from overread.server.meduhip.preferences import USUAL_STYLE, Wish
from overread.server.meduhip.sittings import Sitting, Who
from overread.server.models import ServedModels

logger = logging.getLogger(__name__)

# The image of a case as the champion takes it; None where it is gone.
ReadCase = Callable[[str, Reader], Volume | None]


class Memory:
    """What is known of how each person draws.

    Args:
        preferences: where it is kept.
    """

    def __init__(self, preferences: Preferences, models: ServedModels) -> None:
        self._preferences, self._models = preferences, models
        self._learning = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preferences")
        # By recipe, the champion in whose terms the preferences are.
        self._met: dict[str, str] = {}

    def begun(self, reader: Reader, who: Who, person: str, wish: Wish) -> Sitting:
        """A sitting before anything was said, from what is known of the person.

        Args:
            person: empty where nobody is named; then nothing is known.
        """
        priors = None
        if person and wish.style == USUAL_STYLE:
            priors = self._preferences.priors(person, who.recipe, wish.purpose, reader)
        session = begin(reader.model, who.image, reader.identity, priors=priors)
        return Sitting(session, session, style=wish.style, purpose=wish.purpose, since=time.time())

    def goes_on(self, sitting: Sitting, who: Who, person: str, wish: Wish) -> bool:
        """Whether a sitting began as the person wishes, and with nothing that was reset since."""
        if sitting.wish != wish:
            return False
        return not sitting.has_prior or not self._preferences.was_reset(
            person, who.recipe, sitting.purpose, sitting.since
        )

    def accepted(
        self,
        person: str,
        recipe: str,
        purpose: str,
        reader: Reader,
        opened: OpenImage,
        labels: np.ndarray,
        case: str,
        now: float,
    ) -> None:
        """Learn from a label that `teaches`. See `Preferences.accepted`, also for what is raised.

        Args:
            labels: class indices on the image's grid.
        """
        masks = [labels == index for index in range(1, len(reader.classes))]
        self._preferences.accepted(person, recipe, purpose, reader, opened, masks, case, now)

    def learn(self, case: str, lesson: Callable[[], None]) -> None:
        """Do what teaches from a case's label, some time soon."""

        def learnt() -> None:
            try:
                lesson()
            except Exception:
                # The label itself is kept; what it says about a person's style is worth less.
                logger.exception("The preferences could not learn from the label of image %s", case)

        self._learning.submit(learnt)

    def meet(self, recipe: str, champion: str, read_case: ReadCase) -> None:
        """Bring everybody's preferences over to a champion, some time soon; once, however often it is asked.

        Args:
            champion: identity of the one in service.
        """
        if self._met.get(recipe) != champion:
            self._met[recipe] = champion
            self._learning.submit(self._replay, recipe, champion, read_case)

    def _replay(self, recipe: str, champion: str, read_case: ReadCase) -> None:
        try:
            if self._models.description(recipe)["identity"] != champion:
                # Another one serves by now, and is met when it is asked.
                return
            reader = self._models.reader(recipe)
            done = self._preferences.replay(
                recipe, reader, lambda case: read_case(case, reader), time.time(), turn=self._models.turn
            )
        except Exception:
            # Kept as they were, they are replayed at the next start.
            logger.exception("Preferences could not be brought over to the new champion of %s", recipe)
            return
        if done.cases:
            logger.info("%d cases of %d people were replayed", done.cases, len(done.people))


def teaches(wish: Wish, labels: np.ndarray) -> bool:
    """Whether a label says how its maker draws: not where they wished to begin without their usual style.

    Args:
        labels: class indices. One of a part, with voxels that nobody looked at, teaches nothing.
    """
    return wish.style == USUAL_STYLE and not bool((labels == IGNORE).any())
