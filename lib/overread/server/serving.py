"""What every app of ours hands to MONAI Label, whatever its images are."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, FastAPI
from monailabel.config import settings as monai_settings
from monailabel.endpoints.user.auth import get_current_user
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.utils.sessions import Sessions
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.compute import leave_a_core
from overread.learning.accepted import AcceptedLabels
from overread.learning.champions import ChampionStore
from overread.learning.process import ACCEPTED
from overread.server.access.access import Access
from overread.server.access.gate import Gate, monai_user
from overread.server.access.headers import SafeHeaders
from overread.server.access.login_routes import login_router
from overread.server.children import Children
from overread.server.datastore_routes import datastore_router
from overread.server.errors import add_error_answers
from overread.server.faults import add_fault_answers
from overread.server.front.memory_routes import memory_router
from overread.server.front.page import Viewer
from overread.server.front.routes import open_front
from overread.server.guard import UploadGuard
from overread.server.labels import BACKGROUND
from overread.server.log_routes import log_router
from overread.server.loop import Loop
from overread.server.models import ServedModels
from overread.server.names import own_name
from overread.server.overlays import OVERLAY_NAMES
from overread.server.pacs.client import Pacs
from overread.server.preference_routes import preference_router
from overread.server.routes import take_over
from overread.server.settings import Settings
from overread.server.store import GuardedStore
from overread.server.training import Training
from overread.server.turns import INFERENCE, record_turn
from overread.server.watch.health import Health
from overread.server.watch.routes import watch_over
from overread.state.database import DATABASE_VARIABLE, Database, default_path
from overread.uncertainty.measures import MEASURES

Task = TypeVar("Task", bound=InferTask)
Store = TypeVar("Store", bound=GuardedStore)

logger = logging.getLogger(__name__)

# Below the app folder: copies of the series of a PACS, and the labels that were accepted of them.
PACS_FOLDER = "pacs"

# Type of models to which 3D Slicer sends points, one list a label.
TAKES_CLICKS = "deepedit"
# Of a request, what the server added or the turn holds anyway.
NOT_ASKED = (
    "image",
    "image_id",
    "image_name",
    "image_source",
    "asked_by",
    "person",
    "panel",
    "as_listed",
    "client_id",
)


class Serving(ABC, Generic[Task, Store]):
    """Everything an app hands to MONAI Label.

    Args:
        conf: what `--conf` said.

    Attributes:
        title: of the app, for people.
        settings, models, database, accepted, children, training: see their types.
        access: who comes in.
        store: the studies folder.
        loop: queue, scoring and training.
        studies: folder of the images; where they come from a PACS, that of their copies.
        pacs: the DICOM server that `--studies` names; None for a folder.
        asks_by: strategy of whoever names none, unless a setting does.
        serves_pacs: whether this app can serve one.
        where_named: where people find the name by which their viewer calls itself, for them to read.
        has_options: whether viewers show what can be chosen of a model.
        not_offered: beginnings of addresses of MONAI Label's that this app does without.
    """

    title: str
    store: Store
    loop: Loop
    not_offered: tuple[str, ...] = ()
    serves_pacs = False
    where_named: str
    has_options = True
    asks_by = "pairwise_dice"

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.app_dir, self.studies = Path(app_dir), Path(studies)
        self.settings = Settings.from_conf({"strategy": self.asks_by, **conf})
        if self.settings.measure is not None:
            MEASURES[self.settings.measure]
        self.pacs = self._pacs_at(studies)
        if self.pacs is not None:
            self.studies = self.app_dir / PACS_FOLDER
            self.studies.mkdir(exist_ok=True)
        self._keep_files_in_app_folder()
        self.models = ServedModels(ChampionStore(self.app_dir / "model"), self.settings)
        database = self.settings.database or os.environ.get(DATABASE_VARIABLE)
        self.database = Database.open(database or default_path(self.app_dir))
        self.access = Access.of_server(self.app_dir, self.settings, self.database)
        self.accepted = AcceptedLabels(self.studies / ACCEPTED, self.database)
        self.accepted.settle(time.time())
        self.children = Children(
            self.app_dir / "logs",
            self.app_dir / "state",
            self.settings.threads,
            {DATABASE_VARIABLE: self.database.url},
        )
        self.training = Training(
            self.models, self.database, self.children, self.settings, self.app_dir / "training", self.studies
        )
        # A recipe whose champion is of another kind now is answered for by another task.
        self._tasks: dict[tuple[str, str], Task] = {}
        self._sessions: Sessions | None = None
        if not self.models.names():
            logger.warning("No champion in %s: train one with `overread train`", self.models.store.root)

    @abstractmethod
    def new_task(self, recipe: str) -> Task:
        """The task that answers for a recipe."""

    @abstractmethod
    def router(self) -> APIRouter:
        """The endpoints of this app."""

    @abstractmethod
    def viewers(self) -> list[Viewer]:
        """In which programs people look at images of this server."""

    @abstractmethod
    def body_limit(self, method: str, path: str, query: dict[str, str]) -> int:
        """Bytes that a request may send. Raises NotFoundError for a label of an unknown image."""

    def client_name(self, said: Mapping[str, Any], address: str) -> str:
        """What a client calls itself; empty where it does not.

        Args:
            said: the request's parameters.
            address: where the request comes from.
        """
        return own_name(said)

    @abstractmethod
    def warm_up(self) -> None:
        """Do what the first request would otherwise wait for."""

    def tasks(self) -> dict[str, Task]:
        """One task per model that is served now."""
        kinds = {name: self.models.kind(name) for name in self.models.names()}
        for name, kind in kinds.items():
            if (name, kind) not in self._tasks:
                self._tasks[name, kind] = self.new_task(name)
        return {name: self._tasks[name, kind] for name, kind in kinds.items()}

    def labels(self) -> list[str]:
        """Names for the viewer: overlays first, so that classes win where segments overlap on submit.

        The background last, where a model takes clicks on it: 3D Slicer sends the points of the names in this list and
        no others, and leaves the background's segment out of what it submits.
        """
        told = [task.info() for task in self.tasks().values()]
        names: dict[str, None] = {}
        for model in told:
            names |= dict.fromkeys(model["labels"])
        if any(model["type"] == TAKES_CLICKS for model in told):
            names.pop(BACKGROUND, None)
            names[BACKGROUND] = None
        overlays = [name for name in OVERLAY_NAMES if name in names]
        return overlays + [name for name in names if name not in OVERLAY_NAMES]

    def info(self) -> dict[str, Any]:
        """What `/info/` says beside MONAI Label's own."""
        return {"queue": self.loop.state()}

    def state(self) -> dict[str, Any]:
        """Queue, scoring and training at a glance."""
        stats = {name: self.training.stats(name) for name in self.training.trainers()}
        return {"queue": self.loop.state(), "training": stats}

    def record(self, model: str, request: dict[str, Any], champion: str) -> None:
        """Keep that a client asked about an image of the studies."""
        if request.get("image_id"):
            record_turn(
                self.database,
                case_id=request["image_id"],
                client_id=str(request.get("client_id") or ""),
                recipe=model,
                champion=champion,
                kind=INFERENCE,
                params={key: value for key, value in request.items() if key not in NOT_ASKED},
                now=time.time(),
            )

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
        warming = threading.Thread(target=self.warm_up, name="warm-up", daemon=True)
        warming.start()
        self.loop.also(self.store.look)
        self.loop.open(warming)

    def prepare_http(self, app: FastAPI) -> None:
        """Put our endpoints, error answers and upload limits into MONAI Label's FastAPI app."""
        router = self.router()
        shared = (datastore_router(self), log_router(self), preference_router(self), memory_router(self))
        for further in (login_router(self.access), *shared):
            router.include_router(further)
        take_over(app, router, self.not_offered)
        # MONAI Label's own endpoints ask this who is logged in.
        app.dependency_overrides[get_current_user] = monai_user
        add_error_answers(app, (self.app_dir, self.studies))
        add_fault_answers(app)
        others = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
        app.user_middleware[:] = [*others, *self.middlewares()]
        health = Health(self)
        open_front(app, self, health)
        watch_over(app, self, health)
        # The stack was built when the server began to start; requests go through the new one.
        app.middleware_stack = SafeHeaders(app.build_middleware_stack())

    def middlewares(self) -> list[Middleware]:
        """What a request passes, first to last. MONAI Label lets the pages of every site in, with their cookies."""
        origins = self.access.origins
        allowed = {"allow_origins": origins, "allow_methods": ["*"], "allow_headers": ["*"]}
        return [
            *([Middleware(CORSMiddleware, **allowed, allow_credentials=True)] if origins else []),
            Middleware(Gate, access=self.access),
            Middleware(UploadGuard, limit=self.body_limit),
        ]

    def _pacs_at(self, studies: str) -> Pacs | None:
        """The DICOM server that `--studies` names. Raises BadInputError where this app serves folders only."""
        if not studies.startswith(("http://", "https://")):
            return None
        if not self.serves_pacs:
            raise BadInputError(f"--studies {studies}: this app serves a folder, not a DICOM server")
        return Pacs(studies)

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
