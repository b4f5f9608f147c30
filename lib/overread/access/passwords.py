"""Passwords and tokens as they are kept: so that the file of users gives neither away.

Passwords are hashed with Argon2id at the parameters that RFC 9106, section 4, recommends where memory is scarce
(64 MiB, three passes), a fresh salt each. Tokens are 256 random bits, which nobody guesses: SHA-256 will do.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from overread.domain import BadInputError

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1000
TOKEN_BYTES = 32
# Tells an API token from what a login gives, also to programs that search code and logs for secrets.
API_TOKEN = "overread_"

_HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def hash_password(password: str) -> str:
    """Argon2's own text form: parameters, salt and hash. Raises BadInputError for one too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise BadInputError(
            f"the password has {len(password)} characters; expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}. "
            "A sentence is easier to remember than a word with digits"
        )
    return _HASHER.hash(password)


def is_password(password: str, hashed: str) -> bool:
    """Whether the password was hashed to this.

    An empty `hashed`, for a user who does not exist or has no password, fits no password, and takes as long to say so.
    """
    if len(password) > LONGEST_PASSWORD:
        return False
    try:
        return _HASHER.verify(hashed or _nobodys(), password) and bool(hashed)
    except (VerificationError, InvalidHashError):
        return False


def new_token(prefix: str = "") -> str:
    """A secret that nobody can guess."""
    return prefix + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


@cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_hex(TOKEN_BYTES))
