"""The HTTP endpoints that differ from MONAI Label's, and those that are ours, whatever the images are.

MONAI Label's endpoints run on the event loop, so that one inference keeps every other client waiting. Here all
of them run in threads: ordinary ones in the server's pool, inferences in a small pool of their own.
"""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, UploadFile
from fastapi.routing import APIRoute

from overread.access import Person, Role
from overread.domain import BadInputError, OverreadError
from overread.server.access.gate import address_of_client as address
from overread.server.access.gate import person_of
from overread.server.names import rater_name
from overread.server.store import as_dict, finite
from overread.server.training import TrainingRunsError

if TYPE_CHECKING:
    from overread.server.serving import Serving

# MONAI Label's endpoints that no app of ours offers as they are: its own inference of slides, batch jobs and
# uploaded weights, which would go around the checks here, a proxy for DICOM servers, and reloading the app.
NOT_OFFERED = ("/infer/wsi", "/batch/", "/model/", "/proxy/", "/scoring/", "/reload")
# Inferences that may be under way: one computes, the next reads its image meanwhile.
INFERENCES_AT_ONCE = 2
SMALL_BODY_BYTES = 4 << 20
# Who is logged in, None where nobody has to be. What they may do was decided before (`overread.server.access.rules`).
User = Person | None
USER = Depends(person_of)


def take_over(app: FastAPI, ours: APIRouter, not_offered: tuple[str, ...] = ()) -> None:
    """Put our endpoints in the place of MONAI Label's, and move the rest of them off the event loop.

    Args:
        not_offered: beginnings of further addresses of MONAI Label's that this app does without.
    """
    replaced = {
        (route.path, m) for route in ours.routes if isinstance(route, APIRoute) for m in route.methods
    }
    kept = []
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            if route.path.startswith((*NOT_OFFERED, *not_offered)):
                continue
            route.methods = {m for m in route.methods if (route.path, m) not in replaced}
            if not route.methods:
                continue
            if asyncio.iscoroutinefunction(route.endpoint):
                route.dependant.call = off_the_loop(route.endpoint)
        kept.append(route)
    app.router.routes[:] = kept
    app.include_router(ours)


def off_the_loop(endpoint: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """The same endpoint in a thread; for coroutines that never really wait, as MONAI Label's are."""

    @functools.wraps(endpoint)
    async def in_thread(**arguments: Any) -> Any:
        return await to_thread.run_sync(lambda: asyncio.run(endpoint(**arguments)))

    return in_thread


def shared_router(serving: Serving[Any, Any]) -> APIRouter:
    """Endpoints that every app of ours has."""
    router = APIRouter()

    @router.get("/overread/state", tags=["Overread"], summary="Queue, scoring and training at a glance")
    def state(user: User = USER) -> dict[str, Any]:
        return finite(serving.state())

    @router.get("/train/", tags=["Train"], summary="The training that was asked for last")
    def train_status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
        return finite(serving.training.status(all, check_if_running))

    @router.post("/train/{model}", tags=["Train"], summary="Train a challenger")
    def train(
        request: Request,
        model: str,
        params: dict[str, Any] | None = None,
        enqueue: bool = False,
        user: User = USER,
    ) -> Any:
        by = asker(serving, request, user, params)
        try:
            return serving.training.start(model, whole(params), by, enqueue)
        except TrainingRunsError as error:
            raise HTTPException(429, str(error)) from error

    @router.post("/train/", include_in_schema=False)
    def train_all(request: Request, params: dict[str, Any] | None = None, user: User = USER) -> Any:
        """OHIF's button: a challenger of every model, one after another."""
        answers: dict[str, Any] = {}
        by, said = asker(serving, request, user, params), whole(params)
        for model in serving.training.trainers():
            options = as_dict(said.get(model), f"options of {model}")
            try:
                task = serving.training.start(model, options, by, enqueue=True)
                answers[model] = {"result": task, "detail": None}
            except OverreadError as error:
                answers[model] = {"result": None, "detail": str(error)}
        if answers and not any(answer["result"] for answer in answers.values()):
            raise BadInputError("; ".join(answer["detail"] for answer in answers.values()))
        return answers

    @router.delete("/train/", tags=["Train"], summary="Stop training")
    def stop_training(request: Request, user: User = USER) -> Any:
        return serving.training.stop(asker(serving, request, user))

    return router


def asker(
    serving: Serving[Any, Any], request: Request, user: User, params: dict[str, Any] | None = None
) -> str:
    """Who asks: the user who is signed in, or the client's name."""
    return rater_name(signed_in(user), serving.client_name(params or {}, address(request)))


def signed_in(user: User) -> str:
    """Name of the user who is signed in; empty where nobody has to be."""
    return "" if user is None else user.name


def as_client(params: dict[str, Any], user: User) -> dict[str, Any]:
    """What a client says, in the name of who is logged in: nobody goes by another's name, whatever it calls itself."""
    return params if user is None else params | {"client_id": user.name}


def may_replace(user: User) -> bool:
    """Whether an image that is sent may take the place of another one, and so take the labels of all out of use."""
    return user is None or user.role.covers(Role.REVIEWER)


def parsed(text: str, what: str) -> dict[str, Any]:
    """A form field that holds a JSON object. Raises BadInputError for anything else, NaN included."""

    def refuse(constant: str) -> None:
        raise BadInputError(f"{what} holds {constant}, which JSON has not")

    try:
        return whole(as_dict(json.loads(text or "{}", parse_constant=refuse), what), what)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{what} is not valid JSON: {error}") from error


def whole(said: dict[str, Any] | None, what: str = "the request") -> dict[str, Any]:
    """JSON that a client sent, if it consists of whole characters.

    JSON can say half of one (`"\\ud800"`, a lone surrogate), which no file, database or answer can hold: kept once,
    everybody who asks for it would be answered with an error. Raises BadInputError.
    """
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{what} holds half of a character, a lone surrogate") from error
    return said or {}


def received(upload: UploadFile, suffix: str) -> Path:
    """The uploaded file in the app's own temporary folder; the caller removes it."""
    path = Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex}{suffix}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    return path
