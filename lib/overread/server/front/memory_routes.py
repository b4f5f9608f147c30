"""`/preferences`: what is remembered of how somebody draws, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from overread.access import Role
from overread.domain import OverreadError
from overread.learning.champions import HASH_LENGTH
from overread.learning.preferences import Preferences
from overread.meduhip.storage import KIND as MEDUHIP
from overread.server.front.memory import Remembered, memories, memory_page
from overread.server.front.page import POLICY
from overread.server.preference_routes import forget, note_reading, whose_memory
from overread.server.routes import USER, User

if TYPE_CHECKING:
    from overread.server.serving import Serving

PAGE = "/preferences"


def memory_router(serving: Serving[Any, Any]) -> APIRouter:
    """The endpoints."""
    router = APIRouter(include_in_schema=False)

    @router.get(PAGE)
    def page(
        request: Request, person: str = "", forgotten: int | None = None, user: User = USER
    ) -> HTMLResponse:
        whose = "" if user is None and not person.strip() else whose_memory(person, user)
        known = Preferences(serving.database)
        is_admin = user is not None and user.role.covers(Role.ADMIN)
        if whose:
            note_reading(serving, request, user, whose)
        seen = Remembered(
            title=serving.title,
            whose=whose,
            memories=memories(known.show(whose), known.cases(whose), champions(serving)) if whose else (),
            person="" if user is None else user.name,
            is_admin=is_admin,
            people=known.people() if is_admin else (),
            where_named=serving.where_named,
            has_options=serving.has_options,
            is_usual=serving.settings.preference,
            has_mean=serving.settings.preference_mean,
            forgotten=forgotten,
        )
        return HTMLResponse(memory_page(seen), headers={"Content-Security-Policy": POLICY})

    @router.post(f"{PAGE}/forget")
    def forget_and_show(
        request: Request,
        person: str = "",
        model: str | None = None,
        purpose: str | None = None,
        user: User = USER,
    ) -> RedirectResponse:
        """The address says what: of a form's fields, an empty purpose could not be told from all of them."""
        whose, cases = forget(serving, request, person, model, purpose, user)
        is_own = user is not None and user.name == whose
        shown = ({} if is_own else {"person": whose}) | {"forgotten": cases}
        # See other: loading the page again forgets nothing again.
        return RedirectResponse(f"{PAGE}?{urlencode(shown)}", 303)

    return router


def remembers(serving: Serving[Any, Any]) -> bool:
    """Whether there is anything to see there: a model that remembers people, or somebody who is remembered."""
    return bool(champions(serving)) or bool(Preferences(serving.database).people())


def champions(serving: Serving[Any, Any]) -> dict[str, str]:
    """The champions in service that remember people, as their preferences name them, by model."""
    found: dict[str, str] = {}
    for name in serving.models.names():
        try:
            if serving.models.kind(name) == MEDUHIP:
                found[name] = serving.models.description(name)["identity"][:HASH_LENGTH]
        except OverreadError:
            # It is replaced at this moment.
            continue
    return found
