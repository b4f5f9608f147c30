"""What the server itself lacks, as HTTP status and sentence: space on the disk, the database, the studies, a champion.

None of it is the client's fault, so none of it is a 4xx. The sentences name no path: the log does.
"""

from __future__ import annotations

import errno
import logging

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from overread.domain import UnavailableError
from overread.state.failures import DatabaseBusyError, DatabaseFullError, StateError

logger = logging.getLogger(__name__)

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
STAYS = "what was kept before is untouched. Keep your work open and send it again"
DISK_FULL = f"the server's disk is full: this was not carried out, {STAYS} when there is space"
DATABASE_BUSY = (
    f"the server's database is held by another process: this was not carried out, {STAYS} in a moment"
)
DATABASE_FAILS = f"the server's database cannot be used: this was not carried out, {STAYS} when it is mended"
STORE_GONE = "the studies folder is not there; is its disk or network share connected to the server?"


class OutOfOrderError(UnavailableError):
    """Something of the server's own is damaged or gone (HTTP 503).

    Attributes:
        cause: with paths, for the log.
    """

    def __init__(self, sentence: str, cause: str = "") -> None:
        super().__init__(sentence)
        self.cause = cause or sentence


def add_fault_answers(app: FastAPI) -> None:
    """Teach the app to answer what the server lacks with `{"detail": sentence}`."""
    for kind in (OSError, StateError, UnavailableError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(HTTPException, _refused)


def fault_answer(error: BaseException | None) -> tuple[int, str] | None:
    """HTTP status and sentence for what the server lacks; None for every other error."""
    if isinstance(error, UnavailableError):
        return 503, str(error)
    if isinstance(error, DatabaseFullError):
        return 507, DISK_FULL
    if isinstance(error, StateError):
        return 503, DATABASE_BUSY if isinstance(error, DatabaseBusyError) else DATABASE_FAILS
    # Connections that break are `OSError` too, and nobody waits for their answer.
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        if error.errno in NO_SPACE:
            return 507, DISK_FULL
        return (
            503,
            f"the server cannot reach its files ({error.strerror}): this was not carried out, {STAYS} later",
        )
    return None


def _answer(request: Request, error: Exception) -> JSONResponse:
    answer = fault_answer(error)
    if answer is None:
        raise error
    # What is told names no path; whoever has to mend it needs one.
    cause = error.cause if isinstance(error, OutOfOrderError) else error
    logger.error("%s %s: %d %s", request.method, request.url.path, answer[0], cause)
    return JSONResponse({"detail": answer[1]}, status_code=answer[0])


async def _refused(request: Request, error: Exception) -> Response:
    """FastAPI takes a full disk, on which it cannot keep an upload, for a body that cannot be understood."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, Exception) and fault_answer(cause) is not None:
        return _answer(request, cause)
    return await http_exception_handler(request, error)
