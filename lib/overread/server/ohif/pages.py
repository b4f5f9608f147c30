"""OHIF at `/ohif/`."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import get_mime_type

from overread.server.ohif.build import built_file, is_mended, mended
from overread.server.ohif.panel import PREFIX
from overread.server.routes import USER, User

HEADERS = {
    # OHIF compiles WebAssembly and runs workers from blobs. Whatever it is told to fetch, it fetches from here.
    "Content-Security-Policy": (
        "default-src 'self' blob: data:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; "
        "frame-ancestors 'self'; form-action 'self'"
    ),
    # By the address of the page the server tells the panel from other clients (`panel.is_panel`).
    "Referrer-Policy": "same-origin",
}


def ohif_router() -> APIRouter:
    """The viewer at `/ohif/`."""
    router = APIRouter()

    @router.get(PREFIX + "/{path:path}", include_in_schema=False)
    def page(path: str, user: User = USER) -> Response:
        file = built_file(path)
        kind = get_mime_type(str(file))
        if is_mended(file):
            return Response(mended(file), media_type=kind, headers=HEADERS)
        return FileResponse(file, media_type=kind, headers=HEADERS)

    return router
