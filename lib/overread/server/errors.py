"""Every failure becomes an answer with a sentence: 3D Slicer shows the body of a refusal to its user."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Collection
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)

from overread.access.roles import ForbiddenError
from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.server.access.authority import ProviderError
from overread.server.access.limits import TooManyAttemptsError
from overread.server.faults import fault_answer
from overread.server.store import finite

logger = logging.getLogger(__name__)


def add_error_answers(app: FastAPI, folders: Collection[Path] = ()) -> None:
    """Teach the app to answer our errors and MONAI Label's with `{"detail": sentence}`.

    Args:
        folders: of this machine, which clients are not to know.
    """

    def answer(request: Request, error: Exception) -> JSONResponse:
        status, sentence = status_and_sentence(error)
        logger.warning("%s %s: %d %s", request.method, request.url.path, status, sentence)
        for folder in folders:
            sentence = sentence.replace(f"{folder}/", "")
        headers = error.headers if isinstance(error, TooManyAttemptsError) else None
        # A sentence may quote what is no text.
        sentence = sentence.encode(errors="backslashreplace").decode()
        return JSONResponse({"detail": sentence}, status_code=status, headers=headers)

    for kind in (OverreadError, MONAILabelException, json.JSONDecodeError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, _misshapen)
    app.add_exception_handler(Exception, _unexpected)


def status_and_sentence(error: Exception) -> tuple[int, str]:
    """HTTP status and what to tell the client."""
    if (fault := fault_answer(error)) is not None:
        return fault
    if isinstance(error, NotFoundError):
        return 404, str(error)
    if isinstance(error, ForbiddenError):
        return 403, str(error)
    if isinstance(error, BadInputError):
        return 400, str(error)
    if isinstance(error, TooManyAttemptsError):
        return 429, str(error)
    if isinstance(error, ProviderError):
        return 503, str(error)
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return 404, str(error.msg)
    if isinstance(error, MONAILabelException):
        return (400 if error.error == MONAILabelError.INVALID_INPUT else 500), str(error.msg)
    if isinstance(error, json.JSONDecodeError):
        return 400, f"not valid JSON: {error}"
    return 500, str(error)


def _misshapen(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own refusal, without what was sent: that may be a password, or no text."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in found]
    return JSONResponse({"detail": finite(detail)}, status_code=422)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """Nothing of an error that nobody thought of goes out: it may hold paths, or what others sent."""
    number = secrets.token_hex(4)
    logger.error(
        "%s %s: error %s is a %s",
        request.method,
        request.url.path,
        number,
        type(error).__name__,
        exc_info=error,
    )
    sentence = f"something went wrong in the server; its log tells what under `error {number}`"
    return JSONResponse({"detail": sentence}, status_code=500)
