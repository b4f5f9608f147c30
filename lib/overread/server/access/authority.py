"""Who says that somebody is who they are: our file of users, or MONAI Label's OpenID provider."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod

import jwt
import requests
from anyio import to_thread
from monailabel.config import settings as monai_settings
from monailabel.endpoints.user import auth as monai_auth

from overread.access import Person, Role, UsersFile
from overread.access.passwords import API_TOKEN, is_password
from overread.domain import OverreadError
from overread.server.access.tickets import LIFETIME_S, Tickets

logger = logging.getLogger(__name__)

# Argon2 takes 64 MiB a password; others wait.
PASSWORDS_AT_ONCE = 2
# Signatures that the provider's public key can have made. A token does not choose.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


class ProviderError(OverreadError):
    """The OpenID provider cannot be asked (HTTP 503)."""


class Authority(ABC):
    """Knows people by password and by token."""

    # Shown by `GET /auth/`, for viewers' logs.
    realm: str = ""
    # How long a token is good, as far as it is known here.
    lifetime_s: float = LIFETIME_S

    @abstractmethod
    def is_on(self) -> bool:
        """Whether anybody has to log in."""

    @abstractmethod
    def log_in(self, name: str, password: str) -> tuple[str, Person] | None:
        """A token for who knows the password, and who that is; None for a wrong one. Takes a moment."""

    @abstractmethod
    async def person(self, token: str) -> Person | None:
        """Whose token this is; None where it is nobody's, or no longer."""

    @abstractmethod
    def forget(self, token: str) -> None:
        """Make a token worthless, where that is possible."""


class FileOfUsers(Authority):
    """Our own users. Once there was one, logins stay on until the server ends."""

    realm = "overread"

    def __init__(self, users: UsersFile) -> None:
        self.users = users
        self._tickets = Tickets()
        self._passwords = threading.BoundedSemaphore(PASSWORDS_AT_ONCE)
        self._was_on = False

    def is_on(self) -> bool:
        """Whether there are users. Raises BadInputError where their file cannot be read."""
        self._was_on = self._was_on or not self.users.is_empty()
        return self._was_on

    def log_in(self, name: str, password: str) -> tuple[str, Person] | None:
        user = self.users.find(name)
        with self._passwords:
            is_right = is_password(password, user.password if user else "")
        if user is None or not is_right:
            return None
        return self._tickets.issue(user.name, user.password, time.time()), Person(user.name, user.role)

    async def person(self, token: str) -> Person | None:
        if token.startswith(API_TOKEN):
            user = self.users.of_token(token)
        else:
            ticket = self._tickets.find(token, time.time())
            user = None if ticket is None else self.users.find(ticket.name)
            if ticket is not None and user is not None and user.password != ticket.password:
                user = None
        return None if user is None else Person(user.name, user.role)

    def forget(self, token: str) -> None:
        self._tickets.drop(token)


class OpenId(Authority):
    """MONAI Label's own way (`MONAI_LABEL_AUTH_*`), which it leaves broken with PyJWT 2: a realm as Keycloak has it."""

    def __init__(self) -> None:
        self.realm = monai_settings.MONAI_LABEL_AUTH_REALM_URI

    def is_on(self) -> bool:
        return True

    def log_in(self, name: str, password: str) -> tuple[str, Person] | None:
        form = {
            "client_id": monai_settings.MONAI_LABEL_AUTH_CLIENT_ID,
            "username": name,
            "password": password,
            "grant_type": "password",
        }
        try:
            answer = requests.post(
                monai_auth.token_uri(), data=form, timeout=monai_settings.MONAI_LABEL_AUTH_TIMEOUT
            )
            if answer.status_code in (400, 401, 403):
                return None
            answer.raise_for_status()
            token = str(answer.json()["access_token"])
        except (requests.RequestException, KeyError, ValueError) as error:
            raise self._silent(error) from error
        person = self._person(token)
        return None if person is None else (token, person)

    async def person(self, token: str) -> Person | None:
        return await to_thread.run_sync(self._person, token)

    def forget(self, token: str) -> None:
        """Nothing: the provider's tokens are good until they end by themselves, some minutes after they were made."""

    def _person(self, token: str) -> Person | None:
        try:
            key = monai_auth.get_public_key(self.realm)
        except (requests.RequestException, KeyError, ValueError) as error:
            raise self._silent(error) from error
        try:
            # As in MONAI Label, a token of any client of the realm is good.
            said = jwt.decode(
                token, key, algorithms=list(ALGORITHMS), options={"verify_aud": False, "require": ["exp"]}
            )
        except jwt.InvalidTokenError as error:
            logger.info("A token was not accepted: %s", error)
            return None
        name, role = said.get(monai_settings.MONAI_LABEL_AUTH_TOKEN_USERNAME), role_in(said)
        return Person(str(name), role) if name and role else None

    def _silent(self, error: Exception) -> ProviderError:
        logger.error("The OpenID provider %s cannot be asked: %s", self.realm, type(error).__name__)
        return ProviderError("the server that knows the users cannot be reached; try again later")


def role_in(said: dict[str, object]) -> Role | None:
    """The highest of our roles that a token of the provider stands for; None without any."""
    names: object = said
    for part in monai_settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        names = names.get(part) if isinstance(names, dict) else None
    known = {
        monai_settings.MONAI_LABEL_AUTH_ROLE_USER: Role.READER,
        monai_settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR: Role.READER,
        monai_settings.MONAI_LABEL_AUTH_ROLE_REVIEWER: Role.REVIEWER,
        monai_settings.MONAI_LABEL_AUTH_ROLE_ADMIN: Role.ADMIN,
    }
    found = [known[name] for name in names if name in known] if isinstance(names, list) else []
    return max(found, key=list(Role).index, default=None)
