"""Names that clients send and that end up in paths: image ids, tags, session ids."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from overread.domain import BadInputError

LONGEST_NAME = 200
ANONYMOUS = "anonymous"


def checked_name(name: str, what: str) -> str:
    """The name itself, if it can be a file's name on every system.

    Raises:
        BadInputError: it is empty, too long, hidden, holds a separator, `..` or a control character.
    """
    shown = name if len(name) <= 60 else name[:57] + "..."
    if not name or name.isspace():
        raise BadInputError(f"{what} is empty")
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise BadInputError(f"{what} {shown!r} is longer than {LONGEST_NAME} bytes")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise BadInputError(f"{what} {shown!r} holds a control character")
    if any(separator in name for separator in "/\\"):
        raise BadInputError(f"{what} {shown!r} looks like a path; expected a plain name without / or \\")
    if ".." in name or name.startswith("."):
        raise BadInputError(f"{what} {shown!r} begins with a dot or holds `..`; expected a plain name")
    return name


def rater_name(user: str, client_id: str) -> str:
    """Who made a label: the user where one is signed in, else what the client calls itself.

    Raises:
        BadInputError: the name is too long or holds a control character.
    """
    name = (user or client_id).strip() or ANONYMOUS
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise BadInputError(f"client_id {name[:57]!r}... is longer than {LONGEST_NAME} bytes")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise BadInputError(f"client_id {name!r} holds a control character")
    return name


def own_name(said: Mapping[str, Any]) -> str:
    """What a client calls itself in a request; empty where it does not."""
    return str(said.get("client_id") or "")


def name_of_address(address: str) -> str:
    """What a client is called that does not say who it is, such as QuPath: `at 192.0.2.7`; empty for no address."""
    return f"at {address}" if address else ""
