"""What a reader says about the memory of their preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overread.domain import BadInputError
from overread.server.card import choice, first

USUAL_STYLE = "my usual style"
NO_STYLE = "off"
STYLES = (USUAL_STYLE, NO_STYLE)
DEFAULT_PURPOSE = "diagnosis"
LONGEST_PURPOSE = 60


@dataclass(frozen=True)
class Wish:
    """With which preferences a case begins.

    Attributes:
        style: whether the reader's usual style is where it begins.
        purpose: what the segmentation is for.
    """

    style: str
    purpose: str

    @staticmethod
    def options(is_usual: bool) -> dict[str, Any]:
        """For the viewer's table; the first of a list is the default.

        Args:
            is_usual: whether that is the usual style (see `Settings.preference`).
        """
        return {
            "preference": first(USUAL_STYLE if is_usual else NO_STYLE, STYLES),
            "purpose": DEFAULT_PURPOSE,
        }

    @classmethod
    def read(cls, request: Mapping[str, Any], is_usual: bool) -> Wish:
        """What a request says, with the defaults for what it does not.

        Args:
            is_usual: as for `options`.

        Raises:
            BadInputError: a style that is not in the table, or a purpose that is no short word.
        """
        purpose = str(request.get("purpose") or DEFAULT_PURPOSE).strip() or DEFAULT_PURPOSE
        if len(purpose) > LONGEST_PURPOSE or not purpose.isprintable():
            raise BadInputError(f"purpose is longer than {LONGEST_PURPOSE} characters, or not plain text")
        return cls(choice(request, "preference", cls.options(is_usual)["preference"]), purpose)

    def told(self, is_applied: bool) -> dict[str, Any]:
        """For the answer, plain JSON.

        Args:
            is_applied: whether something is known of the reader, and the answer starts from it.
        """
        return {"style": self.style, "purpose": self.purpose, "applied": is_applied}
