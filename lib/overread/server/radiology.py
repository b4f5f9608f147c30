"""The radiology app behind `apps/radiology/main.py`: what it serves, and how the server is set up for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from monailabel.config import settings as monai_settings

from overread.imaging.volumes import READABLE_SUFFIXES
from overread.server.datastore import StudyStore, upload_limit
from overread.server.inference import EnsembleTask
from overread.server.loop import Loop
from overread.server.maps import MapStore
from overread.server.queueing import Queueing
from overread.server.routes import SMALL_BODY_BYTES
from overread.server.scoring import Scoring
from overread.server.serving import Serving
from overread.server.volume_routes import volume_router
from overread.server.warmup import warm_up

NAME = "Overread - Radiology"
DESCRIPTION = "Several networks give their opinion; where they disagree, you are asked. Research software."


class VolumeServing(Serving[EnsembleTask, StudyStore]):
    """Volumes and pictures, for 3D Slicer and OHIF.

    Attributes:
        maps: what inferences knew beyond their label maps.
        queueing: hands cases out.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf)
        self.maps = MapStore(self.app_dir / "maps")
        # MONAI Label lists slides and their XML annotations as well, which are no volumes.
        listed = monai_settings.MONAI_LABEL_DATASTORE_FILE_EXT
        volumes = [pattern for pattern in listed if pattern.endswith(READABLE_SUFFIXES)]
        self.store = StudyStore(studies, volumes, self.models, self.maps, self.accepted)
        self.queueing = Queueing(self.store, self.models, self.database, self.settings)
        scoring = Scoring(self.store, self.models, self.children, self.app_dir / "scoring")
        self.loop = Loop(self.models, self.database, self.queueing, scoring, self.training)

    def new_task(self, recipe: str) -> EnsembleTask:
        """A recipe's champion as a model for volumes."""
        return EnsembleTask(recipe, self.models, self.maps)

    def answer(self, model: str, request: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Let a model answer: the label map's file, and the facts. Raises NotFoundError for an unknown model."""
        self.models.current(model)
        file, facts = self.tasks()[model](request)
        self.record(model, request, facts["champion"])
        return Path(str(file)), facts

    def router(self) -> APIRouter:
        """The endpoints for volumes."""
        return volume_router(self)

    def body_limit(self, method: str, path: str, query: dict[str, str]) -> int:
        """Bytes that a request may send. Raises NotFoundError for a label of an unknown image."""
        if path.rstrip("/") == "/datastore/label" and method == "PUT":
            return upload_limit(self.store, query.get("image", ""))
        if path.startswith(("/datastore", "/session", "/infer/")):
            return self.settings.max_upload_bytes
        return SMALL_BODY_BYTES

    def warm_up(self) -> None:
        """Read, predict and write a tiny volume, and load the champions."""
        warm_up(self.models)
