"""How often somebody may be wrong about a password."""

from __future__ import annotations

import math
import threading
from collections import deque

from overread.domain import OverreadError

WINDOW_S = 300.0
# Wrong passwords within the window: of one user from one address, from one address, and of one user from anywhere. The
# last is the largest, so that nobody locks a colleague out from their own desk.
MOST_OF_BOTH, MOST_OF_ADDRESS, MOST_OF_NAME = 5, 20, 50
# Names and addresses that are remembered; a flood of new ones pushes the oldest out.
MOST_REMEMBERED = 10_000


class TooManyAttemptsError(OverreadError):
    """Wait before the next attempt (HTTP 429).

    Attributes:
        wait_s: how long.
    """

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many logins failed; try again in {wait_s} s")
        self.wait_s = wait_s

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP says about it."""
        return {"Retry-After": str(self.wait_s)}


class Attempts:
    """Counts failed logins, those under way included, so that many at once are no way around."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._failed: dict[tuple[str, str], deque[float]] = {}

    def begin(self, name: str, address: str, now: float) -> None:
        """Count an attempt, as failed until `succeeded`. Raises TooManyAttemptsError, and counts none."""
        with self._guard:
            wait = 0.0
            for key, most in _limits(name, address):
                times = self._failed.get(key, deque())
                while times and times[0] <= now - WINDOW_S:
                    times.popleft()
                if len(times) >= most:
                    wait = max(wait, times[0] + WINDOW_S - now)
            if wait:
                raise TooManyAttemptsError(math.ceil(wait))
            for key, _ in _limits(name, address):
                times = self._failed.pop(key, deque())
                times.append(now)
                # At the end again: first in the dictionary is who has been quiet for longest.
                self._failed[key] = times
            while len(self._failed) > MOST_REMEMBERED:
                del self._failed[next(iter(self._failed))]

    def succeeded(self, name: str, address: str) -> None:
        """The attempt that began last was right: it counts no longer, nor do others of this user from there."""
        with self._guard:
            (both, _), *others = _limits(name, address)
            self._failed.pop(both, None)
            for key, _ in others:
                if self._failed.get(key):
                    self._failed[key].pop()


def _limits(name: str, address: str) -> list[tuple[tuple[str, str], int]]:
    name = name.casefold()
    return [((name, address), MOST_OF_BOTH), (("", address), MOST_OF_ADDRESS), ((name, ""), MOST_OF_NAME)]
