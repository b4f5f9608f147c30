"""`/`, and the list of addresses at `/docs` with its script from this server."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

import overread
from overread.domain import OverreadError
from overread.server.access.gate import person_of
from overread.server.front.memory_routes import remembers
from overread.server.front.page import POLICY, Facts, Model, front_page
from overread.server.routes import USER, User
from overread.server.watch.health import Health
from overread.state.labels import ACCEPTED, APPROVED, count_labels

if TYPE_CHECKING:
    from overread.server.serving import Serving

# MONAI Label's pages of these addresses load their scripts from the web, which hospitals' machines do not reach.
REPLACED = ("/", "/docs")
# Of a time in ISO 8601.
TO_THE_MINUTE = 16
PROGRAM = Literal["swagger-ui-bundle.js", "swagger-ui.css"]


def open_front(app: FastAPI, serving: Serving[Any, Any], health: Health) -> None:
    """Put our first page and our list of addresses in the place of MONAI Label's."""
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) not in REPLACED
    ]
    app.include_router(front_router(app, serving, health))


def front_router(app: FastAPI, serving: Serving[Any, Any], health: Health) -> APIRouter:
    """The endpoints."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def front(request: Request, user: User = USER) -> HTMLResponse:
        person = person_of(request)
        facts = Facts(
            title=serving.title,
            version=overread.__version__,
            address=str(request.base_url).rstrip("/"),
            health=health.look(),
            viewers=serving.viewers(),
            models=shown_models(serving),
            labels=accepted_labels(serving),
            state=serving.info() | serving.state(),
            person=person.name if person else "",
            remembers=remembers(serving),
        )
        return HTMLResponse(front_page(facts), headers={"Content-Security-Policy": POLICY})

    @router.get("/docs")
    def addresses(user: User = USER) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=str(app.openapi_url),
            title=f"{serving.title} - addresses",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/favicon.ico",
            swagger_ui_parameters={"defaultModelsExpandDepth": -1},
        )

    @router.get("/docs/{name}")
    def program(name: PROGRAM, user: User = USER) -> FileResponse:
        with as_file(files("fastapi_offline") / "static" / name) as path:
            return FileResponse(Path(path))

    return router


def shown_models(serving: Serving[Any, Any]) -> list[Model]:
    """The served models; one that is replaced at this moment may be missing."""
    found = []
    for name in serving.models.names():
        try:
            in_service = [version for version in serving.models.store.versions(name) if version.is_champion]
            terms = [term for version in in_service for term in version.terms]
            found.append(
                Model(
                    name=name,
                    classes=serving.models.classes(name)[1:],
                    champion=serving.models.scored_as(name),
                    since=max((term.since for term in terms), default="")[:TO_THE_MINUTE].replace("T", " "),
                    opinions=serving.models.member_count(name),
                )
            )
        except OverreadError:
            continue
    return found


def accepted_labels(serving: Serving[Any, Any]) -> dict[str, int]:
    """How many labels teach each recipe."""
    with serving.database.reading() as c:
        counts = count_labels(c)
    found: dict[str, int] = {}
    for count in counts:
        if count.status in (ACCEPTED, APPROVED):
            found[count.recipe] = found.get(count.recipe, 0) + count.labels
    return found
