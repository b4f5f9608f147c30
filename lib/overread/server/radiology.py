"""The radiology app behind `apps/radiology/main.py`: what it serves, and how the server is set up for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter
from monailabel.config import settings as monai_settings
from monailabel.utils.sessions import Sessions

from overread.domain import BadInputError, NotFoundError
from overread.imaging.volumes import READABLE_SUFFIXES, read_labelmap
from overread.learning.preferences import Preferences
from overread.meduhip.storage import KIND as MEDUHIP
from overread.server.datastore import StudyStore, upload_limit
from overread.server.front.page import Viewer
from overread.server.inference import STUDIES, EnsembleTask
from overread.server.loop import Loop
from overread.server.maps import MapStore
from overread.server.meduhip.encoded import EncodedImages
from overread.server.meduhip.memory import Memory
from overread.server.meduhip.sittings import Sittings
from overread.server.meduhip.task import MedUHIPTask
from overread.server.pacs.answers import answer_segmentation
from overread.server.pacs.exchange import Exchange
from overread.server.pacs.proxy import proxy_router
from overread.server.pacs.store import PacsStore
from overread.server.queueing import Queueing
from overread.server.routes import SMALL_BODY_BYTES
from overread.server.scoring import Scoring
from overread.server.serving import Serving
from overread.server.volume_routes import volume_router
from overread.server.warmup import warm_up

NAME = "Overread - Radiology"
DESCRIPTION = "Several networks give their opinion; where they disagree, you are asked. Research software."


VolumeTask = EnsembleTask | MedUHIPTask


class VolumeServing(Serving[VolumeTask, StudyStore]):
    """Volumes and pictures of a folder or a PACS, for 3D Slicer and OHIF.

    Attributes:
        maps: what inferences knew beyond their label maps.
        encoded: images that MedUHIP models have encoded.
        sittings: where each client is at each image.
        memory: how each person draws.
        exchange: keeps the studies in step with the PACS; None for a folder.
        queueing: hands cases out.
    """

    title = NAME
    serves_pacs = True
    where_named = "In 3D Slicer: Edit → Application Settings → MONAI Label → Client/User-ID."

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf)
        self.maps = MapStore(self.app_dir / "maps")
        self.encoded = EncodedImages(self.settings.encoded_bytes)
        self.sittings = Sittings(self.database)
        self.memory = Memory(Preferences(self.database, self.settings.preference_mean), self.models)
        # MONAI Label lists slides and their XML annotations as well, which are no volumes.
        listed = monai_settings.MONAI_LABEL_DATASTORE_FILE_EXT
        volumes = [pattern for pattern in listed if pattern.endswith(READABLE_SUFFIXES)]
        self.exchange: Exchange | None = None
        if self.pacs is None:
            self.store = StudyStore(studies, volumes, self.models, self.maps, self.accepted)
        else:
            self.store = store = PacsStore(self.studies, self.models, self.maps, self.accepted, self.pacs)
            self.exchange = Exchange(self.pacs, store, self.accepted, self.maps, self.models, self.settings)
        self.store.on_accepted = self.label_accepted
        self.queueing = Queueing(self.store, self.models, self.database, self.settings)
        scoring = Scoring(self.store, self.models, self.children, self.app_dir / "scoring")
        self.loop = Loop(self.models, self.database, self.queueing, scoring, self.training)

    def info(self) -> dict[str, Any]:
        """What `/info/` says beside MONAI Label's own."""
        return super().info() | ({"pacs": self.exchange.state()} if self.exchange else {})

    def open(self, sessions: Sessions | None) -> None:
        """Set the running server up, and begin to exchange with the PACS where there is one."""
        super().open(sessions)
        if self.exchange is not None:
            self.exchange.open()

    def viewers(self) -> list[Viewer]:
        """3D Slicer, and OHIF where there is a PACS for it to show."""
        slicer = Viewer(
            "3D Slicer",
            "Module MONAILabel: enter this as MONAI Label server and press the round arrow beside it:",
        )
        ohif = Viewer("OHIF", "in this browser; the panel MONAI Label asks the models.", "/ohif/")
        return [slicer] if self.pacs is None else [ohif, slicer]

    def new_task(self, recipe: str) -> VolumeTask:
        """A recipe's champion as a model for volumes."""
        if self.models.kind(recipe) == MEDUHIP:
            return MedUHIPTask(
                recipe,
                self.models,
                self.maps,
                self.encoded,
                self.sittings,
                self.memory,
                self._image_of,
            )
        return EnsembleTask(recipe, self.models, self.maps)

    def label_accepted(self, case: str, person: str, recipe: str, labels: np.ndarray) -> None:
        """Let the person's preferences learn from a label, some time soon.

        Args:
            labels: class indices `(*space)` of the recipe.
        """
        if self.exchange is not None:
            self.exchange.wake()
        task, now = self.tasks().get(recipe), time.time()
        if isinstance(task, MedUHIPTask):
            self.memory.learn(
                case,
                lambda: task.teach(case, person, self.store.known_image(case), labels, now),
            )

    def _image_of(self, case: str) -> Path | None:
        try:
            return self.store.known_image(case)
        except NotFoundError:
            return None

    def answer(self, model: str, request: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Let a model answer: the label map's file, and the facts. Raises NotFoundError for an unknown model."""
        self.models.current(model)
        file, facts = self.tasks()[model](request)
        self.record(model, request, facts["champion"])
        return Path(str(file)), facts

    def answer_as_dicom(self, model: str, request: dict[str, Any]) -> tuple[str, bytes]:
        """Let a model answer with a DICOM SEG: a name for the file, and its content.

        Raises:
            BadInputError: the image is of no PACS. NotFoundError: unknown model.
        """
        if not isinstance(self.store, PacsStore) or request["image_source"] != STUDIES:
            raise BadInputError("output dicom_seg needs a DICOM server and a series that lies in it")
        geometry = self.store.geometry(request["image_id"])
        file, facts = self.answer(model, request)
        try:
            labels, _ = read_labelmap(file)
        finally:
            file.unlink(missing_ok=True)
        return f"{request['image_id']}.dcm", answer_segmentation(geometry, labels, facts)

    def router(self) -> APIRouter:
        """The endpoints for volumes."""
        router = volume_router(self)
        if self.pacs is not None and self.exchange is not None:
            router.include_router(proxy_router(self.pacs, self.exchange))
        return router

    def body_limit(self, method: str, path: str, query: dict[str, str]) -> int:
        """Bytes that a request may send. Raises NotFoundError for a label of an unknown image."""
        if path.rstrip("/") == "/datastore/label" and method == "PUT":
            return upload_limit(self.store, query.get("image", ""))
        if path.startswith(("/datastore", "/session", "/infer/", "/proxy/")):
            return self.settings.max_upload_bytes
        return SMALL_BODY_BYTES

    def warm_up(self) -> None:
        """Read, predict and write a tiny volume, and load the champions."""
        warm_up(self.models)
