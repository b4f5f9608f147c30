"""Every request passes here first: who makes it, whether they may, and whether the audit log is told."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from anyio import to_thread
from monailabel.endpoints.user.auth import DEFAULT_USER, User
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overread.access import Person
from overread.access.exposure import is_loopback
from overread.domain import OverreadError
from overread.server.access.access import Access
from overread.server.access.authority import ProviderError
from overread.server.access.origins import is_from_elsewhere, is_loopback_name
from overread.server.access.rules import Rule, rule_for
from overread.server.faults import fault_answer
from overread.server.guard import throw_away

logger = logging.getLogger(__name__)

COOKIE = "overread"
PERSON = "overread.person"
# Bytes of a refused request that are read, so that its client gets to read the answer.
MOST_READ_OF_REFUSED_BYTES = 4 << 20


class Gate:
    """ASGI middleware in front of everything else."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with who makes it, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["headers"] = [header for header in scope["headers"] if not is_of_several_ranges(*header)]
        request = Request(scope)
        try:
            refusal = await self._refusal(request)
        except OverreadError as error:
            logger.error("Nobody can be let in: %s", error)
            sentence = str(error) if isinstance(error, ProviderError) else "the server's users cannot be read"
            refusal = JSONResponse({"detail": sentence}, status_code=503)
        if refusal is not None:
            await throw_away(receive, MOST_READ_OF_REFUSED_BYTES)
            await refusal(scope, receive, send)
            return
        person: Person | None = scope.get(PERSON)
        rule = rule_for(request.method, path_of(scope))
        if person is None or not rule.action:
            await self.app(scope, receive, send)
            return

        is_refused = False

        async def noted(message: Message) -> None:
            nonlocal is_refused
            # Before the answer: who has it can rely on the row.
            if message["type"] == "http.response.start" and message["status"] < 400:
                try:
                    await self._note(person, rule, request)
                except (OSError, OverreadError) as error:
                    answer = fault_answer(error)
                    if answer is None:
                        raise
                    logger.error("%s %s: %d %s", request.method, request.url.path, answer[0], error)
                    is_refused = True
                    await refused(*answer)(scope, receive, send)
            if not is_refused:
                await send(message)

        await self.app(scope, receive, noted)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to who may not; None, and the person in the scope, for who may."""
        access, scope = self.access, request.scope
        parts = scope["path"].split("/")
        if ".." in parts or not scope["path"].isprintable():
            return refused(400, "the address holds `..` or what is no character")
        if is_from_elsewhere(request, access.origins):
            return refused(
                403, "a page of another site may not do this; MONAI_LABEL_CORS_ORIGINS names those that may"
            )
        if not access.authority.is_on():
            return None if access.allow_anonymous else self._stranger(request)
        rule = rule_for(request.method, path_of(scope))
        if rule.role is None or request.method == "OPTIONS":
            return None
        person = await self._person(request)
        if person is None:
            return log_in_first(request)
        if not person.role.covers(rule.role):
            sentence = f"{person.name} is {person.role}; this takes a {rule.role}"
            logger.warning("%s %s: 403 %s", request.method, request.url.path, sentence)
            await self._note(person, Rule(rule.methods, rule.path, rule.role, "request refused"), request)
            return refused(403, sentence)
        scope[PERSON] = person
        return None

    async def _person(self, request: Request) -> Person | None:
        token = token_of(request)
        if token:
            return await self.access.authority.person(token)
        image = request.query_params.get("image", "")
        if request.method == "GET" and path_of(request.scope).rstrip("/") == "/datastore/image":
            return self.access.grants.person(address_of_client(request), image, time.time())
        return None

    def _stranger(self, request: Request) -> Response | None:
        """The refusal of who came from outside though nobody was to; None for this machine's own."""
        server = request.scope.get("server")
        if server and server[1] is not None and not is_loopback(server[0]):
            return refused(403, "this server lets nobody in from other machines until it has users")
        host = request.headers.get("host", "")
        if not is_loopback_name(host):
            return refused(
                403, f"this server has no users and answers to localhost alone, not to {host[:100]!r}"
            )
        return None

    async def _note(self, person: Person, rule: Rule, request: Request) -> None:
        subject = request.query_params.get(rule.subject, "") if rule.subject else path_of(request.scope)
        details = {
            "from": address_of_client(request),
            "request": f"{request.method} {path_of(request.scope)[:200]}",
        }

        def write() -> None:
            self.access.note(person, rule.action, subject[:200], **details)

        await to_thread.run_sync(write)


def is_of_several_ranges(name: bytes, value: bytes) -> bool:
    """Whether a header asks for several parts of a file at once: Starlette answers thousands of them, and wrongly.

    A server may send the whole file instead (RFC 9110, section 14.2).
    """
    return name == b"range" and b"," in value


def path_of(scope: Scope) -> str:
    """The path as the router sees it."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def token_of(request: Request) -> str:
    """The secret that a request carries: as programs send it, or in a browser's cookie."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind:
        return token.strip() if kind.lower() == "bearer" else ""
    return request.cookies.get(COOKIE, "")


def address_of_client(request: Request) -> str:
    """Where a request comes from; empty where that is not known."""
    return request.client.host if request.client else ""


def person_of(request: Request) -> Person | None:
    """Who is logged in; None where nobody has to be."""
    return request.scope.get(PERSON)


def monai_user(request: Request) -> User:
    """The same for MONAI Label's own endpoints, which have no word for nobody."""
    person = person_of(request)
    return (
        DEFAULT_USER
        if person is None
        else User(username=person.name, name=person.name, roles=list(DEFAULT_USER.roles))
    )


def refused(status: int, sentence: str) -> JSONResponse:
    """An answer of one sentence."""
    return JSONResponse({"detail": sentence}, status_code=status)


def log_in_first(request: Request) -> Response:
    """To a browser that opens a page: the login page. To everything else: 401."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(target, safe='')}", status_code=303)
    answer = refused(401, "log in first: the token is missing, wrong or no longer good")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
