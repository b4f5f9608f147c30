"""What a login gives: secrets that are good for one working day, and known to this process alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from overread.access.passwords import hash_token, new_token

# One shift. Viewers log in again by themselves when a ticket is no longer good, browsers ask.
LIFETIME_S = 12 * 3600.0
# Each program and each browser of a user holds one; beyond that the oldest is given up.
MOST_A_USER = 32


@dataclass(frozen=True)
class Ticket:
    """One login.

    Attributes:
        name: of the user.
        password: the hash that was right then; another one since means that the ticket is no longer good.
        ends_at: in seconds since 1970.
    """

    name: str
    password: str
    ends_at: float


class Tickets:
    """All that are good now. A restart forgets them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._tickets: dict[str, Ticket] = {}

    def issue(self, name: str, password: str, now: float) -> str:
        """A new secret for a user."""
        secret = new_token()
        with self._guard:
            self._tickets = {key: ticket for key, ticket in self._tickets.items() if ticket.ends_at > now}
            own = [key for key, ticket in self._tickets.items() if ticket.name == name]
            for key in own[: max(0, len(own) - MOST_A_USER + 1)]:
                del self._tickets[key]
            self._tickets[hash_token(secret)] = Ticket(name, password, now + LIFETIME_S)
        return secret

    def find(self, secret: str, now: float) -> Ticket | None:
        """The login that gave this secret, while it is good."""
        ticket = self._tickets.get(hash_token(secret))
        return ticket if ticket is not None and ticket.ends_at > now else None

    def drop(self, secret: str) -> None:
        """Forget a login."""
        with self._guard:
            self._tickets.pop(hash_token(secret), None)
