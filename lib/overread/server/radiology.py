"""The radiology app behind `apps/radiology/main.py`: what it serves, and how the server is set up for it."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from monailabel.config import settings as monai_settings
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.utils.sessions import Sessions
from starlette.middleware import Middleware

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.compute import leave_a_core
from overread.imaging.volumes import READABLE_SUFFIXES
from overread.learning.accepted import AcceptedLabels
from overread.learning.champions import ChampionStore
from overread.learning.process import ACCEPTED
from overread.server.datastore import StudyStore
from overread.server.doubt import DOUBT_NAMES
from overread.server.errors import add_error_answers
from overread.server.guard import UploadGuard
from overread.server.inference import EnsembleTask
from overread.server.loop import Loop
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.routes import body_limit, take_over
from overread.server.settings import Settings
from overread.server.turns import INFERENCE, record_turn
from overread.server.warmup import warm_up
from overread.state.database import Database, default_path
from overread.uncertainty.measures import MEASURES

logger = logging.getLogger(__name__)

NAME = "Overread - Radiology"
# Of a request, what the server added or the turn holds anyway.
NOT_ASKED = ("image", "image_id", "image_name", "client_id")
DESCRIPTION = "Several networks give their opinion; where they disagree, you are asked. Research software."


class Serving:
    """Everything the app hands to MONAI Label.

    Attributes:
        settings, models, maps, store, database, accepted, loop: see their types.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.app_dir = Path(app_dir)
        self.settings = Settings.from_conf(conf)
        if self.settings.measure is not None:
            MEASURES[self.settings.measure]
        if studies.startswith(("http://", "https://")):
            raise BadInputError(f"--studies {studies}: this app serves a folder, not a DICOM server")
        self._keep_files_in_app_folder()
        self.models = ServedModels(ChampionStore(self.app_dir / "model"), self.settings)
        self.maps = MapStore(self.app_dir / "maps")
        self.database = Database.open(self.settings.database or default_path(self.app_dir))
        self.accepted = AcceptedLabels(Path(studies) / ACCEPTED, self.database)
        self.accepted.settle(time.time())
        # MONAI Label lists slides and their XML annotations as well, which are no volumes.
        listed = monai_settings.MONAI_LABEL_DATASTORE_FILE_EXT
        volumes = [pattern for pattern in listed if pattern.endswith(READABLE_SUFFIXES)]
        self.store = StudyStore(studies, volumes, self.models, self.maps, self.accepted)
        self.loop = Loop(self.app_dir, Path(studies), self.store, self.models, self.database)
        self._tasks: dict[str, EnsembleTask] = {}
        self._sessions: Sessions | None = None
        if not self.models.names():
            logger.warning("No champion in %s: train one with `overread train`", self.models.store.root)

    def tasks(self) -> dict[str, InferTask]:
        """One task per model that is served now."""
        for name in self.models.names():
            if name not in self._tasks:
                self._tasks[name] = EnsembleTask(name, self.models, self.maps)
        return {name: self._tasks[name] for name in self.models.names()}

    def answer(self, model: str, request: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Let a model answer: the label map's file, and the facts. Raises NotFoundError for an unknown model."""
        self.models.current(model)
        file, facts = self.tasks()[model](request)
        if request.get("image_id"):
            record_turn(
                self.database,
                case_id=request["image_id"],
                client_id=str(request.get("client_id") or ""),
                recipe=model,
                champion=facts["champion"],
                kind=INFERENCE,
                params={key: value for key, value in request.items() if key not in NOT_ASKED},
                now=time.time(),
            )
        return Path(str(file)), facts

    def labels(self) -> list[str]:
        """Segment names for the viewer: doubt first, so that classes win where segments overlap on submit."""
        names: dict[str, None] = {}
        for task in self.tasks().values():
            names |= dict.fromkeys(task.info()["labels"])
        doubt = [name for name in DOUBT_NAMES if name in names]
        return doubt + [name for name in names if name not in DOUBT_NAMES]

    def sessions(self) -> Sessions:
        """Images that clients sent for a while. Raises NotFoundError where sessions are switched off."""
        if self._sessions is None:
            raise NotFoundError("sessions are switched off on this server (MONAI_LABEL_SESSIONS)")
        return self._sessions

    def open(self, sessions: Sessions | None) -> None:
        """Set the running server up: endpoints, errors, limits, and what the first request would wait for."""
        from monailabel.app import app

        self._sessions = sessions
        self.prepare_http(app)
        threads = leave_a_core(self.settings.threads)
        logger.info("Models %s on %s, %d threads", self.models.names(), self.models.device, threads)
        warming = threading.Thread(target=warm_up, args=(self.models,), name="warm-up", daemon=True)
        warming.start()
        self.loop.open(warming)

    def prepare_http(self, app: FastAPI) -> None:
        """Put our endpoints, error answers and upload limits into MONAI Label's FastAPI app."""
        take_over(app, self)
        add_error_answers(app)
        app.user_middleware.append(Middleware(UploadGuard, limit=partial(body_limit, self)))
        # The stack was built when the server began to start; requests go through the new one.
        app.middleware_stack = app.build_middleware_stack()

    def _keep_files_in_app_folder(self) -> None:
        """Temporary files and sessions go below the app folder: nothing is written elsewhere."""
        temporary = self.app_dir / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tempfile.tempdir = str(temporary)
        if not monai_settings.MONAI_LABEL_SESSION_PATH:
            monai_settings.MONAI_LABEL_SESSION_PATH = str(self.app_dir / "sessions")
        # No scores are computed by children of the server, and MLflow's default does not work with files.
        monai_settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False
        monai_settings.MONAI_LABEL_TRACKING_ENABLED = False
