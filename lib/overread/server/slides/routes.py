"""The HTTP endpoints for slides, as QuPath's extension calls them, and those that are ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, File, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from monailabel.endpoints.wsi_infer import ResultType

from overread.domain import BadInputError
from overread.imaging.slides.annotations import to_asap, to_geojson
from overread.imaging.slides.slide import slide_id
from overread.server.maps import MapKey
from overread.server.names import ANONYMOUS, checked_name, own_name
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
from overread.server.slides.inference import SlideAnswer
from overread.server.slides.maps import SHOWN
from overread.server.slides.store import LABEL_SUFFIX
from overread.server.slides.uploads import slide_suffix
from overread.server.store import as_dict, finite

if TYPE_CHECKING:
    from overread.server.slides.pathology import SlideServing

# Parameters of a request that only the server may set.
RESERVED = ("model", "image", "image_id", "image_name", "params", "person")
XML = "application/xml"


def slide_router(serving: SlideServing) -> APIRouter:
    """Our endpoints."""
    router = shared_router(serving)
    at_once = CapacityLimiter(INFERENCES_AT_ONCE)

    async def inferred(
        request: Request,
        model: str,
        image: str,
        said: dict[str, Any],
        file: UploadFile | None,
        output: ResultType | None,
        user: User,
    ) -> Response:
        def answer() -> Response:
            serving.models.current(model)
            named = as_client(said, user)
            asked = asked_of(said) | {
                "client_id": serving.client_name(named, address(request)),
                # An address is no person.
                "person": own_name(named),
            }
            if file is None:
                answer = serving.answer(model, asked | image_of_studies(serving, image))
            else:
                path = received(file, slide_suffix(file.filename or ""))
                try:
                    answer = serving.answer(
                        model, asked | {"image": str(path), "image_name": f"image {file.filename}"}
                    )
                finally:
                    path.unlink(missing_ok=True)
            return as_sent(answer, output)

        return await to_thread.run_sync(answer, limiter=at_once)

    @router.post(
        "/infer/wsi/{model}", tags=["Infer"], summary="Outline a rectangle of a slide, with the doubt"
    )
    async def infer_slide(
        request: Request,
        model: str,
        image: str = "",
        wsi: dict[str, Any] | None = Body(None),
        output: ResultType | None = None,
        user: User = USER,
    ) -> Response:
        return await inferred(request, model, image, whole(wsi), None, output, user)

    @router.post("/infer/wsi_v2/{model}", tags=["Infer"], summary="The same of a picture that is sent")
    async def infer_picture(
        request: Request,
        model: str,
        image: str = "",
        wsi: str = Form("{}"),
        file: UploadFile = File(None),
        output: ResultType | None = None,
        user: User = USER,
    ) -> Response:
        return await inferred(request, model, image, parsed(wsi, "wsi"), file, output, user)

    @router.post("/infer/{model}", tags=["Infer"], summary="The same for clients that send a form")
    async def infer(
        request: Request,
        model: str,
        image: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(None),
        output: ResultType | None = None,
        user: User = USER,
    ) -> Response:
        return await inferred(request, model, image, parsed(params, "params"), file, output, user)

    @router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="Get the next patch")
    def next_patch(
        request: Request, strategy: str, params: dict[str, Any] | None = None, user: User = USER
    ) -> dict[str, Any]:
        said = as_client(whole(params), user)
        client = serving.client_name(said, address(request))
        return finite(serving.queueing.next_patch(strategy, said, client))

    @router.put("/datastore/", include_in_schema=False)
    @router.put("/datastore/image", tags=["Datastore"], summary="Upload a slide, or a patch of one")
    def put_image(
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),
        user: User = USER,
    ) -> dict[str, Any]:
        info = parsed(params, "params") | {"user": signed_in(user) or ANONYMOUS}
        name = Path(file.filename or "").name
        suffix = slide_suffix(name)
        image = checked_name(image or slide_id(Path(name)), "image id")
        path = received(file, suffix)
        try:
            return {"image": serving.store.add_image(image, str(path), info, may_replace(user))}
        finally:
            path.unlink(missing_ok=True)

    @router.put("/datastore/label", tags=["Datastore"], summary="Submit outlines")
    def put_label(
        request: Request,
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),
        user: User = USER,
    ) -> dict[str, Any]:
        info = as_client(parsed(params, "params"), user)
        person = own_name(info)
        info["client_id"] = serving.client_name(info, address(request))
        path = received(label, LABEL_SUFFIX)
        try:
            facts = serving.store.submit(image, path, tag or "final", info, signed_in(user), person)
            return {"image": image, "label": image, "accepted": finite(facts)}
        finally:
            path.unlink(missing_ok=True)

    @router.get(
        "/overread/slides/{image}/{name}",
        tags=["Overread"],
        summary="Doubt, outlines and a picture of a slide",
    )
    def slide_file(image: str, name: str, model: str | None = None, user: User = USER) -> FileResponse:
        """`uncertainty.tif`, `labels.geojson` and `thumbnail.png`, as the background scoring keeps them."""
        serving.store.slide(image)
        recipe = model or serving.models.queued()
        serving.models.current(recipe)
        path = serving.maps.path(MapKey(recipe, serving.models.scored_as(recipe), image), name)
        return FileResponse(path, media_type=SHOWN[name], filename=f"{image}_{name}")

    return router


def image_of_studies(serving: SlideServing, image: str) -> dict[str, str]:
    """What a request about an image of the studies folder says of it.

    Raises:
        NotFoundError: unknown image. BadInputError: none was named.
    """
    if not image:
        raise BadInputError("name an image of the studies folder, or send a file")
    return {
        "image": str(serving.store.slide(image)),
        "image_id": image,
        "image_name": f"image {image}",
    }


def asked_of(said: dict[str, Any]) -> dict[str, Any]:
    """One flat request: QuPath puts its points into `params`, inside the body."""
    inner = as_dict(said.get("params"), "params")
    return {key: value for key, value in (said | inner).items() if key not in RESERVED}


def as_sent(answer: SlideAnswer, output: ResultType | None) -> Response:
    """ASAP's XML where that is wished, else GeoJSON with the facts beside: QuPath opens it when it is saved."""
    if output == ResultType.asap:
        return Response(to_asap(answer.outlines), media_type=XML)
    return JSONResponse(to_geojson(answer.outlines) | finite(answer.facts))
