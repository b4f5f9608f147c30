"""The server's log, for who runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from overread.domain import NotFoundError
from overread.server.routes import USER, User

if TYPE_CHECKING:
    from overread.server.serving import Serving

LOG = "app.log"
# Of the log's end: this much is read, and so many lines are shown at most.
MOST_BYTES, MOST_LINES = 4 << 20, 20_000
NVIDIA_S = 20


def log_router(serving: Serving[Any, Any]) -> APIRouter:
    """MONAI Label's page of the log loads scripts from elsewhere, into an admin's session; this is the text alone."""
    router = APIRouter(tags=["Others"])

    @router.get("/logs/", summary="The end of the server's log")
    def log(lines: int = 300, user: User = USER) -> PlainTextResponse:
        path = serving.app_dir / "logs" / LOG
        if not path.is_file():
            raise NotFoundError("the server keeps no log file")
        return PlainTextResponse(end_of(path, min(max(lines, 1), MOST_LINES)))

    @router.get("/logs/gpu", summary="What nvidia-smi says")
    def gpu(user: User = USER) -> PlainTextResponse:
        program = shutil.which("nvidia-smi")
        if program is None:
            raise NotFoundError("there is no nvidia-smi on this machine")
        try:
            said = subprocess.run([program], capture_output=True, text=True, timeout=NVIDIA_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotFoundError("nvidia-smi gives no answer") from error
        return PlainTextResponse(said.stdout or said.stderr)

    return router


def end_of(path: Path, lines: int) -> str:
    """The last lines of a text file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:]) + "\n"
