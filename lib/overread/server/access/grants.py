"""Images that may be fetched without a login, because whoever asked for them cannot send one.

3D Slicer logs in for all its requests but one: it downloads the image of Next Sample as any file from the web, with
neither token nor cookie. So a case that was handed to a user may be downloaded from the same address for some minutes.
"""

from __future__ import annotations

import threading

from overread.access import Person

# Slicer downloads at once; a large volume may be asked for again when a line breaks.
LIFETIME_S = 300.0
MOST = 10_000


class Grants:
    """Who may fetch which image from where, without saying who they are."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._until: dict[tuple[str, str], tuple[float, Person]] = {}

    def give(self, person: Person, address: str, image: str, now: float) -> None:
        """The image was handed to this person at this address."""
        with self._guard:
            self._until = {key: value for key, value in self._until.items() if value[0] > now}
            if address and len(self._until) < MOST:
                self._until[address, image] = (now + LIFETIME_S, person)

    def person(self, address: str, image: str, now: float) -> Person | None:
        """To whom the image was handed at this address a moment ago."""
        until, person = self._until.get((address, image), (0.0, None))
        return person if until > now else None
