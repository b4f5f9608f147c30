"""Every failure becomes an answer with a sentence: 3D Slicer shows the body of a refusal to its user."""

from __future__ import annotations

import json
import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)

from overread.domain import BadInputError, NotFoundError, OverreadError, UnavailableError

logger = logging.getLogger(__name__)


def add_error_answers(app: FastAPI) -> None:
    """Teach the app to answer our errors and MONAI Label's with `{"detail": sentence}`."""
    for kind in (OverreadError, MONAILabelException, json.JSONDecodeError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(Exception, _unexpected)


def status_and_sentence(error: Exception) -> tuple[int, str]:
    """HTTP status and what to tell the client."""
    if isinstance(error, NotFoundError):
        return 404, str(error)
    if isinstance(error, BadInputError):
        return 400, str(error)
    if isinstance(error, UnavailableError):
        return 503, str(error)
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


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    sentence = f"{type(error).__name__}: {error}; the server's log (GET /logs/) has the details"
    return JSONResponse({"detail": sentence}, status_code=500)
