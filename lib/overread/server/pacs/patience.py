"""One object that cannot be had must not keep all others waiting."""

from __future__ import annotations

import logging

from overread.domain import UnavailableError

logger = logging.getLogger(__name__)

# So many in a row, and it is the PACS that is away.
MOST_IN_A_ROW = 3


class Patience:
    """Passes over single objects that the PACS fails to give or take, and gives up where several in a row fail.

    Whatever is passed over is tried again at the next look.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._in_a_row = 0

    def begin(self) -> None:
        """A new look: what failed before counts no more."""
        self._in_a_row = 0

    def worked(self, what: str) -> None:
        """It went well."""
        self._in_a_row = 0
        self._told.discard(what)

    def failed(self, what: str, error: UnavailableError) -> None:
        """Pass over it. Raises the error itself where too many failed in a row."""
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise error
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s is passed over until the PACS can: %s", what, error)
