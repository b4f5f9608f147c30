"""OHIF's pages, from the build inside MONAI Label: no word to the internet, and a panel that knows its server."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import User
from monailabel.utils.others.generic import get_mime_type

from overread.domain import NotFoundError
from overread.server.ohif.panel import PREFIX
from overread.server.routes import USER

BUILD = Path(ohif.__file__).resolve().parent / "static" / "ohif"
INDEX, CONFIGURATION = "index.html", "app-config.js"
# The build's pages fetch a typeface from the internet; without it the browser takes one of its own.
TYPEFACE = re.compile(r"""<link[^>]*fonts\.g[^>]*>|@import\s+url\([^)]*fonts\.g[^)]*\)[^;]*;""")
# The panel takes its server's address from this cookie, which all ports of a host share, and else port 8000.
PANEL_SERVER = 'document.cookie = "MONAILABEL_SERVER_URL=" + escape(window.location.origin + "/");\n'
COLOURS = Path(__file__).with_name("colours.js")
HEADERS = {
    # OHIF compiles WebAssembly and runs workers from blobs. Whatever it is told to fetch, it fetches from here.
    "Content-Security-Policy": (
        "default-src 'self' blob: data:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'"
    ),
    # By the address of the page the server tells the panel from other clients (`panel.is_panel`).
    "Referrer-Policy": "same-origin",
}


def ohif_router(has_pacs: bool) -> APIRouter:
    """The viewer at `/ohif/`, where there is a PACS to show."""
    router = APIRouter()

    @router.get(PREFIX + "/{path:path}", include_in_schema=False)
    def page(path: str, user: User = USER) -> Response:
        if not has_pacs:
            raise NotFoundError("OHIF shows what lies in a PACS; this server's --studies is a folder")
        file = built_file(path)
        if file.suffix in (".html", ".css") or file.name == CONFIGURATION:
            return Response(mended(file), media_type=get_mime_type(str(file)), headers=HEADERS)
        return FileResponse(file, media_type=get_mime_type(str(file)), headers=HEADERS)

    return router


def built_file(path: str) -> Path:
    """The build's file at an address; the viewer's page itself for the addresses that it makes up.

    Raises:
        NotFoundError: an address that names a file which is not in the build.
    """
    file = (BUILD / path).resolve()
    if file.is_relative_to(BUILD) and file.is_file():
        return file
    if Path(path).suffix:
        raise NotFoundError(f"OHIF's build has no file {path!r}")
    return BUILD / INDEX


@lru_cache
def mended(file: Path) -> str:
    """A page, style sheet or the configuration as it is served."""
    text = TYPEFACE.sub("", file.read_text(encoding="utf-8"))
    return text + PANEL_SERVER + COLOURS.read_text(encoding="utf-8") if file.name == CONFIGURATION else text
