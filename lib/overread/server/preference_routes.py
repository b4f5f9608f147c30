"""What is remembered of how somebody draws: for them to see, take along and forget, whatever the images are."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from overread.access import Role
from overread.access.roles import ForbiddenError
from overread.domain import BadInputError
from overread.learning.preferences import Preferences
from overread.server.access.gate import address_of_client
from overread.server.names import checked_name, rater_name
from overread.server.routes import USER, User

if TYPE_CHECKING:
    from overread.server.serving import Serving

EXPORT = "preferences.json"
# All that a request may say of what is to be forgotten.
PERSON, MODEL, PURPOSE = "person", "model", "purpose"


def preference_router(serving: Serving[Any, Any]) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["Overread"])

    @router.get("/overread/preferences", summary="What is known of how you draw")
    def show(
        request: Request, person: str = "", model: str | None = None, user: User = USER
    ) -> list[dict[str, Any]]:
        """Of the user who is signed in; `person` is for admins, and for servers without users."""
        whose = whose_memory(person, user)
        note_reading(serving, request, user, whose)
        return Preferences(serving.database).show(whose, named(model))

    @router.get("/overread/preferences/export", summary="All that is kept of it, with the accepted masks")
    def export(
        request: Request,
        person: str = "",
        model: str | None = None,
        purpose: str | None = None,
        user: User = USER,
    ) -> Response:
        whose = whose_memory(person, user)
        kept = Preferences(serving.database).export(whose, named(model), worded(purpose))
        if user is not None:
            serving.access.note(user, "preferences exported", whose, **{"from": address_of_client(request)})
        headers = {"Content-Disposition": f'attachment; filename="{EXPORT}"'}
        content = json.dumps(kept, indent=2, allow_nan=False) + "\n"
        return Response(content, media_type="application/json", headers=headers)

    @router.delete("/overread/preferences", summary="Forget it: all, or of one model or purpose")
    def reset(
        request: Request,
        person: str = "",
        model: str | None = None,
        purpose: str | None = None,
        user: User = USER,
    ) -> dict[str, Any]:
        """`cases` is how many are forgotten. Accepted labels stay."""
        whose, cases = forget(serving, request, person, model, purpose, user)
        return {PERSON: whose, MODEL: model, PURPOSE: purpose, "cases": cases}

    return router


def whose_memory(person: str, user: User) -> str:
    """Of whom a request speaks: of the user who is signed in, or of the person it names.

    Raises:
        BadInputError: nobody is signed in, and nobody is named, or by no name.
        ForbiddenError: another person is named, by somebody who is no admin.
    """
    named = rater_name("", person) if person.strip() else ""
    if user is None:
        if not named:
            raise BadInputError(
                "of whom? Nobody is signed in on this server, so `person` has to say it: the name that the viewer "
                "sends (`client_id`)"
            )
        return named
    if named in ("", user.name):
        return user.name
    if not user.role.covers(Role.ADMIN):
        raise ForbiddenError(
            f"{user.name} is {user.role} and may ask for what is remembered of {user.name} alone; for others this "
            "takes an admin"
        )
    return named


def forget(
    serving: Serving[Any, Any],
    request: Request,
    person: str,
    model: str | None,
    purpose: str | None,
    user: User,
) -> tuple[str, int]:
    """Forget somebody, in the name of who asks. Who that was, and how many cases are forgotten.

    Raises:
        BadInputError: what is to be forgotten is said in words that would be overlooked, so that all would be.
    """
    unknown = sorted(set(request.query_params) - {PERSON, MODEL, PURPOSE})
    if unknown:
        raise BadInputError(
            f"what is to be forgotten is said by {PERSON}, {MODEL} and {PURPOSE}, not by {', '.join(unknown)}"
        )
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise BadInputError(
            f"{PERSON}, {MODEL} and {PURPOSE} stand in the address (`?{MODEL}=liver`), not in a body"
        )
    whose = whose_memory(person, user)
    actor = "" if user is None else user.name
    memory = Preferences(serving.database)
    return whose, memory.reset(whose, time.time(), named(model), worded(purpose), actor=actor)


def note_reading(serving: Serving[Any, Any], request: Request, user: User, whose: str) -> None:
    """Let the audit log know where somebody looks at what is remembered of another person."""
    if user is not None and user.name != whose:
        serving.access.note(user, "preferences read", whose, **{"from": address_of_client(request)})


def named(model: str | None) -> str | None:
    """A model's name, as it came; None for all. Raises BadInputError for what can be none."""
    return None if model is None else checked_name(model, MODEL)


def worded(purpose: str | None) -> str | None:
    """A purpose, as it came; None for all. Raises BadInputError for what can be none."""
    if purpose is not None and not purpose.isprintable():
        raise BadInputError(f"{PURPOSE} {purpose[:60]!r} is not plain text")
    return purpose
