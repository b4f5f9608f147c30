"""`/healthz` and `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from monailabel.endpoints.user.auth import User
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware import Middleware

from overread.server.routes import USER
from overread.server.watch.figures import Figures, Timed
from overread.server.watch.health import FAILING, Health

if TYPE_CHECKING:
    from overread.server.serving import Serving

# Asked by few, and answered also where every other thread waits for something.
LOOKS_AT_ONCE = 2


def watch_over(app: FastAPI, serving: Serving[Any, Any], health: Health) -> None:
    """Give the app its two addresses, and time its requests from now on."""
    figures = Figures(serving)
    app.include_router(watch_router(health, figures))
    # The first is the outermost: its time is the client's.
    app.user_middleware.insert(0, Middleware(Timed, figures=figures))


def watch_router(health: Health, figures: Figures) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["Watch"])
    at_once = CapacityLimiter(LOOKS_AT_ONCE)

    @router.get("/healthz", summary="Whether the server can do its work")
    async def healthz() -> JSONResponse:
        """200, or 503 where labels cannot be kept or a model cannot answer; the body says what is wrong."""
        found = await to_thread.run_sync(health.look, limiter=at_once)
        return JSONResponse(found, status_code=503 if found["status"] == FAILING else 200)

    @router.get("/healthz/live", summary="Whether the server is alive")
    async def live() -> dict[str, str]:
        """200 while the process answers at all: it need not be started again."""
        return {"status": "ok"}

    @router.get("/metrics", summary="Figures for Prometheus")
    def metrics(user: User = USER) -> Response:
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return router
