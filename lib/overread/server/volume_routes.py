"""The HTTP endpoints for volumes: inference, images and labels, sessions, the next case, maps."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse
from monailabel.endpoints.infer import ResultType
from monailabel.interfaces.utils.app import app_instance
from requests_toolbelt import MultipartEncoder

from overread.domain import BadInputError, NotFoundError
from overread.imaging.headers import check_self_contained
from overread.learning.champions import HASH_LENGTH
from overread.server.datastore import check_announced, check_volume, volume_suffix
from overread.server.datastore_routes import known_session
from overread.server.inference import SESSION, STUDIES, UPLOAD, called
from overread.server.maps import MapKey
from overread.server.names import ANONYMOUS, checked_name, name_of_address, own_name
from overread.server.ohif.pages import ohif_router
from overread.server.ohif.panel import asked_model, info_for_panel, is_panel
from overread.server.routes import (
    INFERENCES_AT_ONCE,
    USER,
    User,
    address,
    as_client,
    may_replace,
    parsed,
    received,
    shared_router,
    signed_in,
    whole,
)
from overread.server.store import finite

if TYPE_CHECKING:
    from overread.server.radiology import VolumeServing

# Parameters of a request that only the server may set.
RESERVED = (
    "model",
    "image",
    "image_id",
    "image_name",
    "image_source",
    "session",
    "asked_by",
    "person",
    "panel",
    "as_listed",
    "description",
    "strategy",
)


def volume_router(serving: VolumeServing) -> APIRouter:
    """Our endpoints."""
    router = shared_router(serving)
    at_once = CapacityLimiter(INFERENCES_AT_ONCE)

    @router.post("/infer/{model}", tags=["Infer"], summary="Segment an image and show the doubt")
    async def infer(
        http: Request,
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
            request = as_client(inference_request(serving, model, image, session_id, params, file), user)
            person = signed_in(user) or own_name(request)
            request |= {"person": person, "asked_by": person or name_of_address(address(http))}
            recipe, _ = asked_model(model, request)
            request["as_listed"] = output == ResultType.image
            try:
                if output == ResultType.dicom_seg:
                    name, content = serving.answer_as_dicom(recipe, request)
                    return attachment(name, content, "application/dicom")
                result, facts = serving.answer(recipe, request)
            finally:
                if file is not None and not session_id:
                    Path(request["image"]).unlink(missing_ok=True)
            return inference_answer(result, finite(facts), output)

        return await to_thread.run_sync(answer, limiter=at_once)

    @router.post("/infer/", include_in_schema=False)
    async def infer_unnamed(
        http: Request,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(None),
        label: UploadFile = File(None),
        output: ResultType | None = None,
        user: User = USER,
    ) -> Any:
        """3D Slicer, set to run a model after Next Sample, names none where no `segmentation` model is served."""
        model = serving.models.queued()
        if not model:
            raise NotFoundError("no model was named, and none is served yet; train one first")
        return await infer(http, model, image, session_id, params, file, label, output, user)

    @router.get("/info/", tags=["App"], summary="What this server offers")
    def info(http: Request, user: User = USER) -> dict[str, Any]:
        app: Any = app_instance()
        facts = app.info()
        return info_for_panel(facts) if is_panel(http.headers.get("referer", "")) else facts

    @router.put("/datastore/", include_in_schema=False)
    @router.put("/datastore/image", tags=["Datastore"], summary="Upload an image")
    def put_image(
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),
        user: User = USER,
    ) -> dict[str, Any]:
        info = parsed(params, "params") | {"user": signed_in(user) or ANONYMOUS}
        name = Path(file.filename or "").name
        image = checked_name(image or name.removesuffix(volume_suffix(name)), "image id")
        path = received_volume(file)
        try:
            return {"image": serving.store.add_image(image, str(path), info, may_replace(user))}
        finally:
            path.unlink(missing_ok=True)

    @router.put("/datastore/label", tags=["Datastore"], summary="Submit a label")
    def put_label(
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),
        user: User = USER,
    ) -> dict[str, Any]:
        info = as_client(parsed(params, "params"), user)
        path = received_volume(label)
        try:
            facts = serving.store.submit(image, path, tag or "final", info, signed_in(user))
            return {"image": image, "label": image, "accepted": facts}
        finally:
            path.unlink(missing_ok=True)

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
        path = received_volume(files[0])
        try:
            check_volume(path, name, serving.settings.max_upload_bytes)
            # MONAI Label's own ids can be guessed: they are the time.
            session_id, session = serving.sessions().add_session(
                str(path), max(0, expiry), False, str(uuid.uuid4())
            )
        finally:
            path.unlink(missing_ok=True)
        return {"session_id": session_id, "session_info": session.to_json()}

    @router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="Get the next case")
    def next_case(
        request: Request, strategy: str, params: dict[str, Any] | None = None, user: User = USER
    ) -> dict[str, Any]:
        answer = finite(serving.queueing.next_case(strategy, whole(params), signed_in(user)))
        if user is not None and "id" in answer:
            serving.access.grants.give(user, address(request), answer["id"], time.time())
        return answer

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

    router.include_router(ohif_router())
    return router


def inference_request(
    serving: VolumeServing, model: str, image: str, session_id: str, params: str, file: UploadFile | None
) -> dict[str, Any]:
    """What the task is asked. An image that came as `file` lies in the temporary folder.

    Raises:
        NotFoundError: unknown model, image or session.
        BadInputError: params that are no JSON object, no image at all, or a file that is no volume.
    """
    request = {key: value for key, value in parsed(params, "params").items() if key not in RESERVED}
    recipe, panel = asked_model(model, request)
    serving.models.current(recipe)
    request["panel"] = panel
    if session_id:
        session = known_session(serving, session_id)
        return request | {
            "image": session.image,
            "image_id": storable(image),
            "image_name": "of the session",
            "image_source": SESSION,
        }
    if file is not None:
        path, name = received_volume(file), file.filename or ""
        with removed_on_error(path):
            check_announced(path, name, serving.settings.max_upload_bytes)
        return request | {"image": str(path), "image_name": name, "image_source": UPLOAD}
    if not image:
        raise BadInputError("name an image of the studies folder, a session, or send a file")
    known = serving.store.known_image(image)
    return request | {
        "image": str(known),
        "image_id": image,
        "image_name": f"image {image}",
        "image_source": STUDIES,
    }


def inference_answer(result: Path, facts: dict[str, Any], output: ResultType | None) -> Any:
    """The label map and the facts in the form the client asked for: both, unless it said otherwise."""
    try:
        content = result.read_bytes()
    finally:
        result.unlink(missing_ok=True)
    if output == ResultType.json:
        return facts
    if output == ResultType.image:
        return attachment(result.name, content, "application/octet-stream")
    encoder = MultipartEncoder(
        {
            "params": (None, json.dumps(facts, allow_nan=False), "application/json"),
            "image": (result.name, content, "application/octet-stream"),
        }
    )
    return Response(encoder.to_string(), media_type=encoder.content_type)


def attachment(name: str, content: bytes, media_type: str) -> Response:
    """A file as an answer."""
    return Response(
        content,
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def received_volume(upload: UploadFile) -> Path:
    """The uploaded volume in the app's own temporary folder; the caller removes it.

    Raises BadInputError for a kind of file that is not read here, and for one that points to another file.
    """
    path = received(upload, volume_suffix(upload.filename or ""))
    with removed_on_error(path), called(path, upload.filename or ""):
        check_self_contained(path)
    return path


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Remove what was received when it turns out not to be taken."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def storable(name: str) -> str | None:
    """The name, if maps can be kept under it. 3D Slicer names a session's image after its node, freely."""
    try:
        return checked_name(name, "image id")
    except BadInputError:
        return None
