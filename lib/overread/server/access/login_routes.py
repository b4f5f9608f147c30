"""Logging in: as 3D Slicer and QuPath do it, and in a browser."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from monailabel.config import settings as monai_settings

from overread.server.access.gate import COOKIE, address_of_client, monai_user, person_of, token_of
from overread.server.access.limits import TooManyAttemptsError
from overread.server.access.page import POLICY, login_page

if TYPE_CHECKING:
    from overread.server.access.access import Access

logger = logging.getLogger(__name__)

LONGEST_NAME = 200
WRONG = "Name or password is wrong."
# Where a browser goes that was on its way to nowhere in particular.
FIRST_PAGE = "/"


def login_router(access: Access) -> APIRouter:
    """The endpoints under which people say who they are."""
    router = APIRouter(tags=["Auth"])

    @router.get("/auth/", summary="Whether users have to log in")
    def enabled() -> dict[str, Any]:
        return {
            "enabled": access.authority.is_on(),
            "client_id": monai_settings.MONAI_LABEL_AUTH_CLIENT_ID,
            "realm": access.authority.realm,
        }

    @router.post("/auth/token", summary="A token for name and password")
    def token(request: Request, username: str = Form(""), password: str = Form("")) -> Response:
        """OAuth's password grant, of which QuPath leaves `grant_type` out."""
        if not access.authority.is_on():
            return JSONResponse({"access_token": None, "token_type": None})
        found = log_in(access, request, username, password)
        if found is None:
            return JSONResponse({"detail": WRONG}, 401, {"WWW-Authenticate": "Bearer"})
        lifetime = int(access.authority.lifetime_s)
        return JSONResponse({"access_token": found, "token_type": "Bearer", "expires_in": lifetime})

    @router.get("/auth/token/valid", summary="Who is logged in")
    def valid(request: Request) -> dict[str, Any]:
        person = person_of(request)
        return monai_user(request).model_dump() | ({"roles": [person.role]} if person else {})

    @router.get("/login", include_in_schema=False)
    def page(next: str = "") -> Response:
        if not access.authority.is_on():
            return RedirectResponse(own_page(next), 303)
        return shown(login_page(own_page(next)))

    @router.post("/login", include_in_schema=False)
    def page_sent(
        request: Request, username: str = Form(""), password: str = Form(""), next: str = Form("")
    ) -> Response:
        target = own_page(next)
        try:
            found = log_in(access, request, username, password)
        except TooManyAttemptsError as error:
            return shown(login_page(target, username, f"{error}."), 429, error.headers)
        if found is None:
            return shown(login_page(target, username, WRONG), 401)
        answer = RedirectResponse(target, 303)
        # Lax: a link in the PACS opens OHIF. What changes anything is checked for its origin beside.
        answer.set_cookie(
            COOKIE,
            found,
            max_age=int(access.authority.lifetime_s),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        access.authority.forget(token_of(request))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    return router


def log_in(access: Access, request: Request, name: str, password: str) -> str | None:
    """A token, or None for a wrong name or password. Raises TooManyAttemptsError after too many of them."""
    address, name = address_of_client(request), name.strip()[:LONGEST_NAME]
    try:
        access.attempts.begin(name, address, time.time())
    except TooManyAttemptsError as error:
        logger.warning("A login from %s was not tried: %s", address, error)
        raise
    found = access.authority.log_in(name, password) if name and password else None
    if found is None:
        # Not under which name: people type passwords into the wrong field.
        logger.warning("A login from %s failed", address)
        access.note(None, "login failed", "", **{"from": address})
        return None
    token, person = found
    access.attempts.succeeded(name, address)
    access.note(person, "logged in", person.name, **{"from": address, "role": person.role})
    return token


def own_page(target: str) -> str:
    """The page to go on to, if it is of this server; else the first one."""
    is_own = (
        target.startswith("/") and not target.startswith("//") and target.isprintable() and "\\" not in target
    )
    return target if is_own else FIRST_PAGE


def shown(page: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    """The login page, which runs no script and loads nothing."""
    return HTMLResponse(page, status, {**(headers or {}), "Content-Security-Policy": POLICY})
