"""Roles, each of which may do what the one before may, and more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from overread.domain import BadInputError, OverreadError


class ForbiddenError(OverreadError):
    """Who asks may not do this (HTTP 403)."""


class Role(StrEnum):
    """What somebody is trusted with; `overread.server.access.rules` says what that is, request by request."""

    READER = "reader"
    REVIEWER = "reviewer"
    ADMIN = "admin"

    def covers(self, wanted: Role) -> bool:
        """Whether who has this role may do what `wanted` is needed for."""
        order = list(Role)
        return order.index(self) >= order.index(wanted)


def role_called(name: str) -> Role:
    """The role of that name. Raises BadInputError for another word."""
    try:
        return Role(name)
    except ValueError:
        raise BadInputError(f"role {name!r} is not known; there are {', '.join(Role)}") from None


@dataclass(frozen=True)
class Person:
    """Who makes a request."""

    name: str
    role: Role
