"""Which addresses a server may listen on without asking anybody who they are."""

from __future__ import annotations

import ipaddress
import socket

from overread.domain import BadInputError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name counts if everything it stands for does."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        pass
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback(str(address)) for address in found)


def check_exposure(host: str, has_users: bool, allow_anonymous: bool) -> None:
    """Refuse to let other machines in without a login.

    Args:
        host: the address to listen on.

    Raises:
        BadInputError: others reach it, there are no users, and nobody said that this is meant; or both were said.
    """
    if allow_anonymous and has_users:
        raise BadInputError(
            "there are users, so that everybody has to log in; allow_anonymous says the contrary: leave it out, or "
            "name another file of users"
        )
    if not (has_users or allow_anonymous or is_loopback(host)):
        raise BadInputError(
            f"other machines reach {host}, and nobody would have to log in: add users (`overread users add NAME "
            "--role admin`), listen on 127.0.0.1, or say that it is meant (`overread serve --allow-anonymous`, "
            "`--conf allow_anonymous=yes`)"
        )
