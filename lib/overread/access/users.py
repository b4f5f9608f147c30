"""The file of users: `users.json`, readable by its owner alone, replaced whole, with hashes of passwords and tokens.

Server and command line share it. The server looks at the file's date with each request, so that what the command line
changes holds from the next request on. A revoked user stays in the file: the name stands under accepted labels, and
goes to nobody else unnoticed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from overread.access.passwords import API_TOKEN, hash_password, hash_token, new_token
from overread.access.roles import Role, role_called
from overread.domain import BadInputError, NotFoundError

VERSION = 1
# Letters of any alphabet, digits and what e-mail addresses hold; `at …` is what clients without a name are called.
NAME = re.compile(r"(?!at )\w(?:[\w .@+'-]{0,62}[\w.])?")
RESERVED_NAMES = ("anonymous",)


@dataclass(frozen=True)
class ApiToken:
    """A secret for programs, as it is kept.

    Attributes:
        label: what it is for.
        sha256: of the secret.
        made_at: when, in seconds since 1970.
    """

    label: str
    sha256: str
    made_at: float


@dataclass(frozen=True)
class User:
    """Somebody who may, or once might, use the server.

    Attributes:
        password: Argon2's hash; empty where only tokens give access.
        changed_at: when role or password were set last, in seconds since 1970.
        revoked_at: since when access is taken away; None where it is not.
    """

    name: str
    role: Role
    password: str = ""
    tokens: tuple[ApiToken, ...] = ()
    changed_at: float = 0.0
    revoked_at: float | None = None

    @property
    def is_active(self) -> bool:
        """Whether the user may come in."""
        return self.revoked_at is None


def default_users(app_dir: Path) -> Path:
    """Where an app's users are unless a setting names another file."""
    return Path(app_dir) / "state" / "users.json"


class UsersFile:
    """All users of one file.

    Args:
        path: need not be there: then there are no users.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._seen: tuple[int, ...] | None = None
        self._users: dict[str, User] = {}
        self._by_token: dict[str, str] = {}

    def users(self) -> list[User]:
        """Everybody, by name. Raises BadInputError for a file that is none of ours."""
        self._look()
        return sorted(self._users.values(), key=lambda user: _key(user.name))

    def is_empty(self) -> bool:
        """Whether nobody was ever entered. Raises BadInputError as `users` does."""
        self._look()
        return not self._users

    def find(self, name: str) -> User | None:
        """The user who may come in under this name, in upper or lower case."""
        self._look()
        user = self._users.get(_key(name))
        return user if user is not None and user.is_active else None

    def of_token(self, token: str) -> User | None:
        """The user whom this API token lets in."""
        self._look()
        name = self._by_token.get(hash_token(token))
        return None if name is None else self.find(name)

    def add(self, name: str, role: Role, password: str | None, now: float, *, again: bool = False) -> User:
        """Enter somebody.

        Args:
            password: None for somebody whom only tokens let in, or whose password stays as it is.
            again: the user is there, perhaps revoked, and gets this role and password. Revoked tokens stay so.

        Raises:
            BadInputError: a name that is taken or cannot be one, or a password too short.
            NotFoundError: `again`, and nobody has this name.
        """
        checked = checked_user_name(name)
        hashed = None if password is None else hash_password(password)
        with self._changing() as users:
            before = users.get(_key(checked))
            if before is not None and not again:
                state = "is there already" if before.is_active else "was revoked"
                raise BadInputError(
                    f"user {before.name} {state}; --again sets role and password anew, if it is the same person"
                )
            if before is None and again:
                raise NotFoundError(f"no user is called {checked}; leave --again out to add one")
            user = User(
                before.name if before else checked,
                role,
                hashed if hashed is not None else (before.password if before else ""),
                before.tokens if before else (),
                now,
            )
            users[_key(checked)] = user
        return user

    def add_token(self, name: str, label: str, now: float) -> str:
        """Give somebody an API token; the secret is returned here and kept nowhere.

        Raises:
            NotFoundError: no such user. BadInputError: the label is empty or taken.
        """
        label = label.strip()
        if not label or not label.isprintable() or len(label) > 64:
            raise BadInputError("a token needs a label of up to 64 characters that says what it is for")
        secret = new_token(API_TOKEN)
        with self._changing() as users:
            user = self._active(users, name)
            if any(token.label == label for token in user.tokens):
                raise BadInputError(
                    f"user {user.name} has a token for {label!r}; revoke it, or say it otherwise"
                )
            token = ApiToken(label, hash_token(secret), now)
            users[_key(name)] = replace(user, tokens=(*user.tokens, token))
        return secret

    def revoke(self, name: str, now: float) -> User:
        """Take somebody's access away, with all tokens. Raises NotFoundError for a name without access."""
        with self._changing() as users:
            user = replace(self._active(users, name), revoked_at=now, tokens=(), password="")
            users[_key(name)] = user
        return user

    def revoke_token(self, name: str, label: str) -> User:
        """Take one token away. Raises NotFoundError where there is no such user or token."""
        with self._changing() as users:
            user = self._active(users, name)
            left = tuple(token for token in user.tokens if token.label != label)
            if left == user.tokens:
                known = ", ".join(token.label for token in user.tokens) or "none"
                raise NotFoundError(f"user {user.name} has no token for {label!r}; there are: {known}")
            users[_key(name)] = user = replace(user, tokens=left)
        return user

    @staticmethod
    def _active(users: dict[str, User], name: str) -> User:
        user = users.get(_key(name))
        if user is None or not user.is_active:
            known = ", ".join(sorted(u.name for u in users.values() if u.is_active)) or "none"
            raise NotFoundError(f"no user is called {name!r}; there are: {known}")
        return user

    def _look(self) -> None:
        """Read the file if it is another than the one read last."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            self._seen, self._users, self._by_token = None, {}, {}
            return
        seen = (now.st_mtime_ns, now.st_size, now.st_ino)
        if seen != self._seen:
            users = _from_json(self.path)
            by_token = {t.sha256: user.name for user in users.values() for t in user.tokens}
            self._users, self._by_token, self._seen = users, by_token, seen

    @contextmanager
    def _changing(self) -> Iterator[dict[str, User]]:
        """The users as they are now; what the block makes of them is written, unless it raises."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            users = _from_json(self.path) if self.path.exists() else {}
            yield users
            _write(self.path, users)


def checked_user_name(name: str) -> str:
    """The name itself. Raises BadInputError where it cannot be a user's."""
    if not NAME.fullmatch(name) or _key(name) in RESERVED_NAMES:
        raise BadInputError(
            f"user name {name!r}: expected up to 64 letters, digits, spaces and . _ @ + ' -, beginning with a letter "
            "or digit, and not `anonymous` or `at …`, which clients without a name are called"
        )
    return name


def _key(name: str) -> str:
    return name.casefold()


def _from_json(path: Path) -> dict[str, User]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        users = [_user(entry) for entry in content["users"]]
    except (OSError, ValueError, TypeError, KeyError, BadInputError) as error:
        raise BadInputError(f"the file of users {path} cannot be read: {error!r}") from error
    if content.get("version") != VERSION:
        raise BadInputError(
            f"the file of users {path} is of version {content.get('version')}, expected {VERSION}"
        )
    return {_key(user.name): user for user in users}


def _user(entry: dict[str, Any]) -> User:
    tokens = tuple(ApiToken(**token) for token in entry["tokens"])
    return User(**{**entry, "role": role_called(entry["role"]), "tokens": tokens})


def _write(path: Path, users: dict[str, User]) -> None:
    """Replace the file whole; nobody but its owner ever could read the new one."""
    text = json.dumps({"version": VERSION, "users": [asdict(users[key]) for key in sorted(users)]}, indent=2)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(
        os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
