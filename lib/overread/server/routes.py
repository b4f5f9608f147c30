"""The HTTP endpoints that differ from MONAI Label's, and those that are ours.

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

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Response, UploadFile
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from monailabel.config import settings as monai_settings
from monailabel.endpoints.infer import ResultType
from monailabel.endpoints.user.auth import RBAC, User
from requests_toolbelt import MultipartEncoder

from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.learning.champions import HASH_LENGTH
from overread.server.datastore import check_volume, upload_limit, volume_suffix
from overread.server.maps import MapKey
from overread.server.names import ANONYMOUS, checked_name, rater_name
from overread.server.store import as_dict, finite
from overread.server.training import TrainingRunsError

if TYPE_CHECKING:
    from overread.server.radiology import Serving

# MONAI Label's endpoints that this app does not offer: whole slides, batch jobs and uploaded weights, which
# would go around the checks here, a proxy for DICOM servers, and reloading the app.
NOT_OFFERED = ("/infer/wsi", "/batch/", "/model/", "/proxy/", "/scoring/", "/reload")
# Inferences that may be under way: one computes, the next reads its image meanwhile.
INFERENCES_AT_ONCE = 2
# Parameters of a request that only the server may set.
RESERVED = ("model", "image", "image_id", "image_name", "session", "label", "description", "strategy")
SMALL_BODY_BYTES = 4 << 20
USER = Depends(RBAC(monai_settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(monai_settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(monai_settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


def take_over(app: FastAPI, serving: Serving) -> None:
    """Put our endpoints in the place of MONAI Label's, and move the rest of them off the event loop."""
    ours = our_router(serving)
    replaced = {
        (route.path, m) for route in ours.routes if isinstance(route, APIRoute) for m in route.methods
    }
    kept = []
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            if route.path.startswith(NOT_OFFERED):
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


def body_limit(serving: Serving, method: str, path: str, query: dict[str, str]) -> int:
    """Bytes that a request may send. Raises NotFoundError for a label of an unknown image."""
    if path.rstrip("/") == "/datastore/label" and method == "PUT":
        return upload_limit(serving.store, query.get("image", ""))
    if path.startswith(("/datastore", "/session", "/infer/")):
        return serving.settings.max_upload_bytes
    return SMALL_BODY_BYTES


def our_router(serving: Serving) -> APIRouter:
    """Our endpoints."""
    router = APIRouter()
    at_once = CapacityLimiter(INFERENCES_AT_ONCE)

    @router.post("/infer/{model}", tags=["Infer"], summary="Segment an image and show the doubt")
    async def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(None),
        label: UploadFile = File(None),
        output: ResultType | None = None,
        user: User = USER,
    ) -> Any:
        def answer() -> Any:
            request = inference_request(serving, model, image, session_id, params, file)
            try:
                if output == ResultType.dicom_seg:
                    raise BadInputError("output dicom_seg needs a DICOM server; this app serves a folder")
                result, facts = serving.answer(model, request)
            finally:
                if file is not None and not session_id:
                    Path(request["image"]).unlink(missing_ok=True)
            return inference_answer(result, finite(facts), output)

        return await to_thread.run_sync(answer, limiter=at_once)

    @router.put("/datastore/", include_in_schema=False)
    @router.put("/datastore/image", tags=["Datastore"], summary="Upload an image")
    def put_image(
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        info = parsed(params, "params") | {"user": user.username}
        name = Path(file.filename or "").name
        image = checked_name(image or name.removesuffix(volume_suffix(name)), "image id")
        path = received(file)
        try:
            return {"image": serving.store.add_image(image, str(path), info)}
        finally:
            path.unlink(missing_ok=True)

    @router.put("/datastore/label", tags=["Datastore"], summary="Submit a label")
    def put_label(
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        info = parsed(params, "params")
        path = received(label)
        try:
            facts = serving.store.submit(image, path, tag or "final", info, signed_in(user))
            return {"image": image, "label": image, "accepted": facts}
        finally:
            path.unlink(missing_ok=True)

    @router.put("/datastore/updatelabelinfo", include_in_schema=False)
    def put_label_info(
        label: str, tag: str, params: str = Form("{}"), user: User = ANNOTATOR
    ) -> dict[str, Any]:
        info = parsed(params, "params")
        serving.store.update_label_info(
            label, tag, info | ({"user": user.username} if signed_in(user) else {})
        )
        return {}

    @router.delete("/datastore/label", tags=["Datastore"], summary="Take a label out of use")
    def delete_label(id: str, tag: str, user: User = ADMIN) -> dict[str, Any]:
        serving.store.remove_label(id, tag, signed_in(user) or ANONYMOUS)
        return {}

    @router.get("/datastore/image", tags=["Datastore"], summary="Download an image")
    def get_image(image: str, user: User = USER) -> FileResponse:
        path = serving.store.known_image(image)
        return FileResponse(path, filename=path.name)

    @router.get("/datastore/label", tags=["Datastore"], summary="Download a label")
    def get_label(label: str, tag: str, user: User = USER) -> FileResponse:
        path = serving.store.known_label(label, tag)
        return FileResponse(path, filename=path.name)

    @router.put("/session/", tags=["Session"], summary="Send an image that is not kept")
    def put_session(
        uncompress: bool = False, expiry: int = 0, files: list[UploadFile] = File(...), user: User = USER
    ) -> dict[str, Any]:
        if uncompress or len(files) != 1:
            raise BadInputError(
                f"a session takes one volume file as it is, got {len(files)} files"
                + (" to uncompress" if uncompress else "")
            )
        name = Path(files[0].filename or "").name
        path = received(files[0])
        try:
            check_volume(path, name, serving.settings.max_upload_bytes)
            session_id, session = serving.sessions().add_session(str(path), max(0, expiry), False)
        finally:
            path.unlink(missing_ok=True)
        return {"session_id": session_id, "session_info": session.to_json()}

    @router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="Get the next case")
    def next_case(strategy: str, params: dict[str, Any] | None = None, user: User = USER) -> dict[str, Any]:
        return finite(serving.loop.queueing.next_case(strategy, params or {}))

    @router.get("/overread/state", tags=["Overread"], summary="Queue, scoring and training at a glance")
    def state(user: User = USER) -> dict[str, Any]:
        training = serving.loop.training
        stats = {name: training.stats(name) for name in training.trainers()}
        return finite({"queue": serving.loop.state(), "training": stats})

    @router.get("/train/", tags=["Train"], summary="The training that was asked for last")
    def train_status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
        return finite(serving.loop.training.status(all, check_if_running))

    @router.post("/train/{model}", tags=["Train"], summary="Train a challenger")
    def train(
        model: str,
        params: dict[str, Any] | None = None,
        enqueue: bool = False,
        user: User = ADMIN,
    ) -> Any:
        try:
            return serving.loop.training.start(model, params or {}, asker(user, params), enqueue)
        except TrainingRunsError as error:
            raise HTTPException(429, str(error)) from error

    @router.post("/train/", include_in_schema=False)
    def train_all(params: dict[str, Any] | None = None, user: User = ADMIN) -> Any:
        """OHIF's button: a challenger of every model, one after another."""
        answers: dict[str, Any] = {}
        for model in serving.loop.training.trainers():
            options = as_dict((params or {}).get(model), f"options of {model}")
            try:
                task = serving.loop.training.start(model, options, asker(user, params), enqueue=True)
                answers[model] = {"result": task, "detail": None}
            except OverreadError as error:
                answers[model] = {"result": None, "detail": str(error)}
        if answers and not any(answer["result"] for answer in answers.values()):
            raise BadInputError("; ".join(answer["detail"] for answer in answers.values()))
        return answers

    @router.delete("/train/", tags=["Train"], summary="Stop training")
    def stop_training(user: User = ADMIN) -> Any:
        return serving.loop.training.stop(asker(user))

    @router.get(
        "/overread/maps", tags=["Overread"], summary="Doubt and probabilities of an earlier inference"
    )
    def maps(
        model: str, image: str, map: str | None = None, champion: str | None = None, user: User = USER
    ) -> Any:
        """Without `map`: which maps are kept. With it: that map as NIfTI on the image's grid."""
        identity = serving.models.description(model)["identity"][:HASH_LENGTH]
        case = checked_name(image, "image id")
        key = MapKey(model, checked_name(champion, "champion") if champion else identity, case)
        if map is None:
            names = serving.maps.names(key)
            if not names:
                serving.store.known_image(image)
            return {"model": model, "image": image, "champion": key.champion, "maps": names}
        path = serving.maps.path(key, map)
        return FileResponse(path, media_type="application/gzip", filename=f"{case}_{path.name}")

    return router


def asker(user: User, params: dict[str, Any] | None = None) -> str:
    """Who asks: the user who is signed in, or the client's name for itself."""
    return rater_name(signed_in(user), str((params or {}).get("client_id") or ""))


def signed_in(user: User) -> str:
    """Name of the user who is signed in; empty where nobody has to be."""
    return user.username if monai_settings.MONAI_LABEL_AUTH_ENABLE else ""


def inference_request(
    serving: Serving, model: str, image: str, session_id: str, params: str, file: UploadFile | None
) -> dict[str, Any]:
    """What the task is asked. An image that came as `file` lies in the temporary folder.

    Raises:
        NotFoundError: unknown model, image or session.
        BadInputError: params that are no JSON object, no image at all, or a file that is no volume.
    """
    serving.models.current(model)
    request = {key: value for key, value in parsed(params, "params").items() if key not in RESERVED}
    if session_id:
        checked_name(session_id, "session id")
        session = serving.sessions().get_session(session_id)
        if session is None:
            raise NotFoundError(f"no session {session_id!r}; it may have expired, send the image again")
        return request | {"image": session.image, "image_id": storable(image), "image_name": "of the session"}
    if file is not None:
        path = received(file)
        return request | {"image": str(path), "image_name": file.filename}
    if not image:
        raise BadInputError("name an image of the studies folder, a session, or send a file")
    known = serving.store.known_image(image)
    return request | {"image": str(known), "image_id": image, "image_name": f"image {image}"}


def inference_answer(result: Path, facts: dict[str, Any], output: ResultType | None) -> Any:
    """The label map and the facts in the form the client asked for: both, unless it said otherwise."""
    try:
        content = result.read_bytes()
    finally:
        result.unlink(missing_ok=True)
    if output == ResultType.json:
        return facts
    if output == ResultType.image:
        disposition = {"Content-Disposition": f'attachment; filename="{result.name}"'}
        return Response(content, media_type="application/octet-stream", headers=disposition)
    encoder = MultipartEncoder(
        {
            "params": (None, json.dumps(facts, allow_nan=False), "application/json"),
            "image": (result.name, content, "application/octet-stream"),
        }
    )
    return Response(encoder.to_string(), media_type=encoder.content_type)


def parsed(text: str, what: str) -> dict[str, Any]:
    """A form field that holds a JSON object. Raises BadInputError for anything else, NaN included."""

    def refuse(constant: str) -> None:
        raise BadInputError(f"{what} holds {constant}, which JSON has not")

    try:
        return as_dict(json.loads(text or "{}", parse_constant=refuse), what)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{what} is not valid JSON: {error}") from error


def received(upload: UploadFile) -> Path:
    """The uploaded file in the app's own temporary folder; the caller removes it."""
    path = Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex}{volume_suffix(upload.filename or '')}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    return path


def storable(name: str) -> str | None:
    """The name, if maps can be kept under it. 3D Slicer names a session's image after its node, freely."""
    try:
        return checked_name(name, "image id")
    except BadInputError:
        return None
