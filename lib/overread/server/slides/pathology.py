"""The pathology app behind `apps/pathology/main.py`: what it serves, and how the server is set up for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from overread.domain import NotFoundError, PixelSize
from overread.domain.slides import PatchLocation
from overread.imaging.volumes import Volume
from overread.learning.patches import read_patch
from overread.learning.preferences import Preferences
from overread.meduhip.reader import Reader
from overread.server.front.page import Viewer
from overread.server.loop import Loop
from overread.server.meduhip.encoded import EncodedImages
from overread.server.meduhip.memory import Memory
from overread.server.meduhip.sittings import Sittings
from overread.server.names import name_of_address
from overread.server.routes import SMALL_BODY_BYTES
from overread.server.scoring import Scorer, Scoring
from overread.server.serving import Serving
from overread.server.slides.inference import SlideAnswer, SlideTask, cascade_of
from overread.server.slides.lessons import SlideLessons
from overread.server.slides.maps import SlideMapStore
from overread.server.slides.opened import OpenedSlides
from overread.server.slides.queueing import PatchQueueing
from overread.server.slides.routes import slide_router
from overread.server.slides.store import SlideStore
from overread.server.slides.turns import SlideTurns
from overread.server.turns import interactions_of
from overread.server.warmup import load

logger = logging.getLogger(__name__)

NAME = "Overread - Pathology"
DESCRIPTION = "Several networks give their opinion; where they disagree, you are asked. Research software."
SCORER = "overread.queue.patches.scorer"


class SlideServing(Serving[SlideTask, SlideStore]):
    """Whole slides, for QuPath.

    Attributes:
        slides: opens them.
        maps: what is kept of them.
        queueing: hands patches out.
    """

    title = NAME
    # Of all strategies for patches the one that the study of other hospitals supports (docs/results/hospitals.md).
    asks_by = "sure_and_unsure"
    # What is sent there is taken for a volume; QuPath sends pictures with its requests.
    not_offered = ("/session",)
    has_options = False
    where_named = (
        "QuPath sends none: of whoever does not log in nothing is remembered. Programs send client_id."
    )

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf)
        self.slides = OpenedSlides(PixelSize(self.settings.assumed_um_per_px))
        self.maps = SlideMapStore(self.app_dir / "maps")
        memory = Memory(Preferences(self.database, self.settings.preference_mean), self.models)
        encoded = EncodedImages(self.settings.encoded_bytes)
        self._turns = SlideTurns(self.models, encoded, Sittings(self.database), memory, self._read_case)
        self.store = SlideStore(studies, self.models, self.accepted, self.slides.assumed, self.maps)
        lessons = SlideLessons(self.store, self.slides, self.models, self.accepted, self._turns, memory)
        self.store.on_accepted = lessons.labels_accepted
        self.queueing = PatchQueueing(
            self.store, self.slides, self.maps, self.models, self.database, self.settings
        )
        scorer = Scorer(SCORER, True, self._scorer_arguments, self.queueing.asked_at)
        scoring = Scoring(self.store, self.models, self.children, self.app_dir / "scoring", scorer)
        self.loop = Loop(self.models, self.database, self.queueing, scoring, self.training)
        self.loop.also(self.queueing.look)

    def new_task(self, recipe: str) -> SlideTask:
        """A recipe's champion as a model for slides."""
        return SlideTask(recipe, self.models, self.slides, self.maps, self._turns)

    def viewers(self) -> list[Viewer]:
        """QuPath."""
        return [Viewer("QuPath", "Edit > Preferences > MONAI Label > Server URL:")]

    def answer(self, model: str, request: dict[str, Any]) -> SlideAnswer:
        """Let a model answer. Raises NotFoundError for an unknown one."""
        self.models.current(model)
        image, client = str(request.get("image_id") or ""), str(request.get("client_id") or "")
        earlier = [turn["asked"] for turn in interactions_of(self.database, image, client)] if image else []
        answer = self.tasks()[model].answer(request, earlier)
        self.record(model, request, answer.facts["champion"])
        return answer

    def client_name(self, said: Mapping[str, Any], address: str) -> str:
        """What a client calls itself; QuPath does not, and is called by its address."""
        return super().client_name(said, address) or name_of_address(address)

    def router(self) -> APIRouter:
        """The endpoints for slides."""
        return slide_router(self)

    def body_limit(self, method: str, path: str, query: dict[str, str]) -> int:
        """Bytes that a request may send. Raises NotFoundError for a label of an unknown slide."""
        if path.rstrip("/") == "/datastore/label" and method == "PUT":
            return self.store.upload_limit(query.get("image", ""))
        if path.startswith(("/datastore", "/infer/")) and not path.startswith("/infer/wsi/"):
            return self.settings.max_upload_bytes
        return SMALL_BODY_BYTES

    def state(self) -> dict[str, Any]:
        """Queue, scoring and training at a glance, and every slide."""
        return super().state() | {"slides": self.queueing.slides()}

    def warm_up(self) -> None:
        """Load the champions."""
        started = time.perf_counter()
        for name in self.models.names():
            load(self.models, name)
        logger.info("Champions loaded after %.1f s", time.perf_counter() - started)

    def _read_case(self, case: str, reader: Reader) -> Volume | None:
        """The picture of a patch as a champion takes it; None where its slide is gone.

        Raises:
            BadInputError: the slide cannot be read, or is another one now, in which the patch does not lie.
        """
        place = PatchLocation.parse(case)
        if place is None or reader.plan.um_per_px is None:
            return None
        try:
            path = self.store.slide(place.slide)
        except NotFoundError:
            return None
        return read_patch(path, place, reader.plan.um_per_px, self.slides.assumed)

    def _scorer_arguments(self, recipe: str) -> dict[str, str]:
        cascade = cascade_of(self.models.calibration(recipe), self.settings.cascade)
        return {
            "--maps": str(self.maps.root),
            "--batch": str(self.settings.slide_batch),
            "--workers": str(self.settings.slide_workers),
            "--um-per-px": str(self.settings.assumed_um_per_px),
            "--cascade": "" if cascade is None else str(cascade),
        }
