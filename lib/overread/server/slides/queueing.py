"""The patch queue over HTTP: which patch of which slide comes next for a client, and why."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import NotFoundError, OverreadError
from overread.ensemble.slides.prediction import glance
from overread.meduhip.doubt import doubt_facts
from overread.queue.patches.serving import Nothing, PatchQueue, ServedPatch
from overread.queue.patches.strategies import PATCH_STRATEGIES
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.server.maps import MapKey
from overread.server.models import ServedModels
from overread.server.queueing import stop_facts
from overread.server.settings import Settings
from overread.server.slides.maps import WAITING, SlideMapStore
from overread.server.slides.opened import OpenedSlides
from overread.server.slides.request import whole_numbers
from overread.server.slides.store import SlideStore
from overread.server.strategies import NamedStrategy, listed
from overread.state.database import Database
from overread.state.scores import count_scores
from overread.state.servings import open_servings

logger = logging.getLogger(__name__)


class PatchQueueing:
    """Hands patches out, each to one client at a time."""

    def __init__(
        self,
        store: SlideStore,
        slides: OpenedSlides,
        maps: SlideMapStore,
        models: ServedModels,
        database: Database,
        settings: Settings,
    ) -> None:
        PATCH_STRATEGIES[settings.strategy]
        self._store, self._slides, self._maps, self._models = store, slides, maps, models
        self._database, self._settings = database, settings
        self._rng = np.random.default_rng()
        self._guard = threading.Lock()
        self._queue: PatchQueue | None = None
        self._looking: dict[MapKey, threading.Lock] = {}
        self._latest_patch_px: tuple[int, int] | None = None
        self._unusable: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}
        self._latest: ServedPatch | None = None

    def strategies(self) -> dict[str, NamedStrategy]:
        """What `/info/` lists, the default first: viewers select the first."""
        return listed(PATCH_STRATEGIES, self._settings.strategy)

    def next_patch(self, strategy: str, wishes: Mapping[str, Any], client: str) -> dict[str, Any]:
        """The next patch for a client, in the keys that QuPath reads.

        Where the slide that is asked about, or every slide, was never looked at, the members take a first look.

        Args:
            strategy: the name in the address.
            wishes: the body of the request: `image`, empty for any slide; `patch_size` in level-0 pixels.
            client: who asks; empty for nobody in particular.

        Raises:
            NotFoundError: no such strategy or slide, no model, or no patch is left; viewers show the sentence.
            BadInputError: a size that cannot be meant, or a slide that cannot be read.
        """
        if strategy not in PATCH_STRATEGIES:
            raise NotFoundError(
                f"no strategy is called {strategy!r}; there are {', '.join(self.strategies())}"
            )
        image = str(wishes.get("image") or "")
        size = whole_numbers(wishes.get("patch_size"), "patch_size", 2, least=1)
        patch_px = None if size is None else (size[0], size[1])
        if image:
            self._store.slide(image)
            self._asked_at[image] = time.time()
        recipe = self._models.queued()
        if not recipe:
            raise NotFoundError("no model is served yet, so that there is no doubt to ask by")
        champion = self._models.scored_as(recipe)
        queue = self._current_queue(recipe, champion)
        self._latest_patch_px = patch_px
        entries = self._entries(recipe, champion, image)
        meant = [entries[image]] if image else entries.values()
        if all(entry.version is None for entry in meant):
            self._look_first(recipe, champion, image)
            entries = self._entries(recipe, champion, image)
        # QuPath opens the slide that it gets without a question about a slide, and draws no rectangle.
        answer = queue.ask(
            strategy,
            client,
            entries,
            image or None,
            patch_px,
            time.time(),
            self._rng,
            holds=bool(image),
        )
        if isinstance(answer, Nothing):
            logger.info("No patch for %s: %s", client or "a viewer", answer.text)
            raise NotFoundError(answer.text)
        self._latest = answer
        return self._answer(answer)

    def asked_at(self) -> dict[str, float]:
        """When readers asked last about slides, in seconds since 1970."""
        return dict(self._asked_at)

    def state(self) -> dict[str, Any]:
        """What `/info/` says of the queue."""
        recipe = self._models.queued()
        champion = self._models.scored_as(recipe)
        now = time.time()
        with self._database.reading() as c:
            leases = [serving for serving in open_servings(c) if serving.expires_at > now]
            scored = count_scores(c, recipe, champion)
        slides = self._store.slides()
        return {
            "recipe": recipe,
            "champion": champion,
            "strategy": self._settings.strategy,
            "control_share": self._settings.control_share,
            "scored": scored,
            "total": len(slides),
            "leases": len(leases),
            "stop": stop_facts(self._latest),
        }

    def slides(self) -> dict[str, Any]:
        """Per slide how far the champion is with it, and which files there are."""
        recipe = self._models.queued()
        champion = self._models.scored_as(recipe)
        found = {}
        for slide, path in sorted(self._store.slides().items()):
            key = MapKey(recipe, champion, slide)
            try:
                seen = self._maps.state(key, path) if recipe else WAITING
            except NotFoundError:
                # It was taken away a moment ago.
                continue
            found[slide] = {"state": seen, "files": self._maps.names(key) if recipe else []}
            if slide in self._unusable:
                found[slide]["problem"] = self._unusable[slide]
        return found

    def look(self) -> None:
        """Make ready what the next question needs; for a thread that nobody waits for."""
        recipe = self._models.queued()
        if recipe:
            champion = self._models.scored_as(recipe)
            queue = self._current_queue(recipe, champion)
            queue.warm(self._entries(recipe, champion, ""), self._latest_patch_px)

    def _entries(self, recipe: str, champion: str, image: str) -> dict[str, SlideEntry]:
        """The slides that the champion has looked at, and `image`."""
        entries = {}
        for slide, path in self._store.slides().items():
            key = MapKey(recipe, champion, slide)
            try:
                # Maps of an earlier file of this name say nothing.
                version = None if self._maps.state(key, path) == WAITING else self._maps.version(key)
                if version is None and slide != image:
                    continue
                facts = self._store.facts(slide)
            except OverreadError as error:
                self._unusable[slide] = str(error)
                if slide == image:
                    raise
                continue
            self._unusable.pop(slide, None)
            entries[slide] = SlideEntry(
                maps=lambda key=key: self._maps.load(key),
                patient=self._store.patient_of(slide),
                centre=self._store.centre_of(slide),
                size_px=facts.size_px,
                pixel_size=facts.pixel_size,
                version=version,
            )
        return entries

    def _look_first(self, recipe: str, champion: str, image: str) -> None:
        """Take a first look at `image`, or at some slide that can be read. Inferences under way go on beside it."""
        files = self._store.slides()
        order = [image] if image else [str(slide) for slide in self._rng.permutation(sorted(files))]
        for slide in order:
            try:
                self._glance(MapKey(recipe, champion, slide), files[slide])
                return
            except OverreadError as error:
                if image:
                    raise
                self._unusable[slide] = str(error)
                logger.warning("Slide %s cannot be looked at: %s", slide, error)

    def _glance(self, key: MapKey, path: Path) -> None:
        with self._guard:
            looking = self._looking.setdefault(key, threading.Lock())
        with looking:
            if self._maps.version(key) is not None:
                return
            started = time.perf_counter()
            with self._slides.open(path) as slide:
                tissue = self._slides.tissue(slide)
                ensemble = self._models.ensemble(key.recipe)
                rng = self._rng.spawn(1)[0]
                maps = glance(ensemble, slide, tissue, self._settings.first_look_s, rng, self._models.device)
                self._maps.keep_first_look(key, path, maps)
            logger.info("First look at slide %s in %.1f s", key.case, time.perf_counter() - started)

    def _current_queue(self, recipe: str, champion: str) -> PatchQueue:
        with self._guard:
            queue = self._queue
            if queue is None or (queue.recipe, queue.champion) != (recipe, champion):
                queue = self._queue = PatchQueue(
                    self._database,
                    recipe,
                    champion,
                    QueueSettings(
                        strategy=self._settings.strategy,
                        control_share=self._settings.control_share,
                        lease_s=self._settings.lease_s,
                    ),
                )
            return queue

    def _answer(self, served: ServedPatch) -> dict[str, Any]:
        slide = served.location.slide
        path = self._store.slide(slide)
        return {
            "id": slide,
            "bbox": [int(number) for number in served.location.region.bbox],
            "path": str(path),
            "name": path.name,
            "patch": served.location.name,
            "reason": served.reason,
            "text": served.text,
            "strategy": served.strategy,
            "arm": served.arm,
            "score": served.score,
            "doubt_parts": doubt_facts(served.parts),
            "is_coarse": served.is_coarse,
            "stop": stop_facts(served),
            "champion": served.serving.champion,
            "lease_expires": served.serving.expires_at,
        }
