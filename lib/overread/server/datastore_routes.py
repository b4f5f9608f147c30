"""Images, labels and sessions by name, whatever the images are: MONAI Label's endpoints with every name checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Form
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from overread.domain import NotFoundError
from overread.server.names import ANONYMOUS, checked_name
from overread.server.routes import USER, User, parsed, signed_in
from overread.server.store import as_dict

if TYPE_CHECKING:
    from overread.server.serving import Serving

SHA256 = "SHA256:"
# The largest `limit_cases` means all.
MOST_CASES = 1 << 31


def datastore_router(serving: Serving[Any, Any]) -> APIRouter:
    """Endpoints that every app of ours has."""
    router = APIRouter(tags=["Datastore"])

    @router.head("/datastore/image", summary="Whether an image is there")
    def has_image(image: str, check_sum: str | None = None, user: User = USER) -> dict[str, Any]:
        path = serving.store.known_image(image)
        if check_sum and check_sum.removeprefix(SHA256).lower() != sha256(path):
            raise NotFoundError(f"image {image!r} is another one: its SHA256 differs")
        return {}

    @router.get("/datastore/image", summary="Download an image")
    def get_image(image: str, user: User = USER) -> FileResponse:
        path = serving.store.sole_file(image)
        return FileResponse(path, filename=path.name)

    @router.delete("/datastore/", include_in_schema=False)
    @router.delete("/datastore/image", summary="Remove an image with its labels")
    def delete_image(id: str, user: User = USER) -> dict[str, Any]:
        serving.store.remove_image(id, signed_in(user) or ANONYMOUS)
        return {}

    @router.put("/datastore/image/info", summary="Add facts about an image")
    def put_image_info(image: str, info: str = Form("{}"), user: User = USER) -> dict[str, Any]:
        serving.store.update_image_info(image, by(parsed(info, "info"), user))
        return {}

    @router.head("/datastore/label", summary="Whether a label is there")
    def has_label(tag: str, image: str = "", label: str = "", user: User = USER) -> dict[str, Any]:
        """MONAI Label asks for `image` here, and for `label` where the label itself is wanted."""
        serving.store.known_label(image or label, tag)
        return {}

    @router.get("/datastore/label", summary="Download a label")
    def get_label(label: str, tag: str, user: User = USER) -> FileResponse:
        path = serving.store.known_label(label, tag)
        return FileResponse(path, filename=path.name)

    @router.delete("/datastore/label", summary="Take a label out of use")
    def delete_label(id: str, tag: str, user: User = USER) -> dict[str, Any]:
        serving.store.remove_label(id, tag, signed_in(user) or ANONYMOUS)
        return {}

    @router.put("/datastore/label/info", summary="Add facts about a label, such as a reviewer's verdict")
    def put_label_info(label: str, tag: str, info: str = Form("{}"), user: User = USER) -> dict[str, Any]:
        serving.store.update_label_info(label, tag, by(parsed(info, "info"), user))
        return {}

    @router.put("/datastore/updatelabelinfo", include_in_schema=False)
    def update_label_info(
        label: str, tag: str, params: str = Form("{}"), user: User = USER
    ) -> dict[str, Any]:
        serving.store.update_label_info(label, tag, by(parsed(params, "params"), user))
        return {}

    @router.get("/datastore/dataset", summary="Images and labels in use as a ZIP archive")
    def get_dataset(limit_cases: int | None = None, user: User = USER) -> FileResponse:
        if not serving.store.datalist():
            raise NotFoundError("no image has a label yet")
        archive = Path(serving.store.get_dataset_archive(min(limit_cases or 0, MOST_CASES)))
        return FileResponse(
            archive, filename="dataset.zip", background=BackgroundTask(archive.unlink, missing_ok=True)
        )

    @router.get("/session/{session_id}", tags=["Session"], summary="A session, or its image")
    def get_session(session_id: str, update_ts: bool = False, image: bool = False, user: User = USER) -> Any:
        session = known_session(serving, session_id, update_ts)
        path = Path(session.image)
        return FileResponse(path, filename=path.name) if image else session.to_json()

    @router.delete("/session/{session_id}", tags=["Session"], summary="Forget a session and its image")
    def delete_session(session_id: str, user: User = USER) -> dict[str, Any]:
        session = known_session(serving, session_id)
        serving.sessions().remove_session(session_id)
        return session.to_json()

    return router


def known_session(serving: Serving[Any, Any], session_id: str, update: bool = True) -> Any:
    """A session of MONAI Label's. Raises NotFoundError where it is not, BadInputError for what cannot be its name."""
    checked_name(session_id, "session id")
    session = serving.sessions().get_session(session_id, update_ts=update)
    if session is None:
        raise NotFoundError(f"no session {session_id!r}; it may have expired, send the image again")
    return session


def by(info: dict[str, Any], user: User) -> dict[str, Any]:
    """Facts with who sent them; who is logged in cannot give a verdict under another name."""
    name = signed_in(user)
    if not name:
        return info
    verdict = as_dict(info.get("segmentationMeta"), "segmentationMeta")
    signed = {"segmentationMeta": verdict | {"approvedBy": name}} if verdict else {}
    return info | signed | {"user": name}


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
