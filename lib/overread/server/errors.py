"""Every failure becomes an answer with a sentence: 3D Slicer shows the body of a refusal to its user."""

from __future__ import annotations

import json
import logging

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from starlette.exceptions import HTTPException

from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.server.faults import fault_answer

logger = logging.getLogger(__name__)


def add_error_answers(app: FastAPI) -> None:
    """Teach the app to answer our errors and MONAI Label's with `{"detail": sentence}`."""
    for kind in (OverreadError, MONAILabelException, json.JSONDecodeError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(OSError, _out_of_order)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _unexpected)


def status_and_sentence(error: Exception) -> tuple[int, str]:
    """HTTP status and what to tell the client."""
    if (fault := fault_answer(error)) is not None:
        # What is told names no path; whoever has to mend it needs one.
        logger.error("%s: %s", type(error).__name__, error)
        return fault
    if isinstance(error, NotFoundError):
        return 404, str(error)
    if isinstance(error, BadInputError):
        return 400, str(error)
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return 404, str(error.msg)
    if isinstance(error, MONAILabelException):
        return (400 if error.error == MONAILabelError.INVALID_INPUT else 500), str(error.msg)
    if isinstance(error, json.JSONDecodeError):
        return 400, f"not valid JSON: {error}"
    return 500, str(error)


def _answer(request: Request, error: Exception) -> JSONResponse:
    status, sentence = status_and_sentence(error)
    logger.warning("%s %s: %d %s", request.method, request.url.path, status, sentence)
    return JSONResponse({"detail": sentence}, status_code=status)


def _out_of_order(request: Request, error: Exception) -> JSONResponse:
    """Files that cannot be read or written."""
    if fault_answer(error) is None:
        raise error
    return _answer(request, error)


async def _refused(request: Request, error: Exception) -> Response:
    """FastAPI takes a full disk, on which it cannot keep an upload, for a body that cannot be understood."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, Exception) and fault_answer(cause) is not None:
        return _answer(request, cause)
    return await http_exception_handler(request, error)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    sentence = f"{type(error).__name__}: {error}; the server's log (GET /logs/) has the details"
    return JSONResponse({"detail": sentence}, status_code=500)
