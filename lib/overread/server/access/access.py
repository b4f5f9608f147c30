"""Everything about access that a running server holds."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monailabel.config import settings as monai_settings

from overread.access import Person, UsersFile
from overread.access.exposure import check_exposure, is_loopback
from overread.access.users import default_users
from overread.server.access.authority import Authority, FileOfUsers, OpenId
from overread.server.access.grants import Grants
from overread.server.access.limits import Attempts
from overread.server.names import ANONYMOUS
from overread.server.settings import Settings
from overread.state.audit import append
from overread.state.database import Database

logger = logging.getLogger(__name__)


class Access:
    """Who comes in, and what the audit log is told of it.

    Attributes:
        authority: knows people.
        allow_anonymous: whether other machines may come in though nobody has to log in.
        origins: of other sites' pages that may use the server (`MONAI_LABEL_CORS_ORIGINS`).
        attempts: failed logins.
        grants: images that 3D Slicer may download.
    """

    def __init__(self, authority: Authority, database: Database, *, allow_anonymous: bool = False) -> None:
        self.authority, self.allow_anonymous = authority, allow_anonymous
        self.origins = tuple(str(origin).rstrip("/") for origin in monai_settings.MONAI_LABEL_CORS_ORIGINS)
        self.attempts, self.grants = Attempts(), Grants()
        self._database = database

    @classmethod
    def of_server(cls, app_dir: Path, settings: Settings, database: Database) -> Access:
        """As the settings say. Raises BadInputError where strangers could come in unasked."""
        authority: Authority = OpenId()
        if not monai_settings.MONAI_LABEL_AUTH_ENABLE:
            authority = FileOfUsers(
                UsersFile(Path(settings.users) if settings.users else default_users(app_dir))
            )
        is_on = authority.is_on()
        host, is_encrypted = address_of(sys.argv)
        check_exposure(host or "127.0.0.1", is_on, settings.allow_anonymous)
        if is_on and host and not is_encrypted and not is_loopback(host):
            logger.warning(
                "Passwords and images cross the network unencrypted: give a certificate (`overread serve --tls-cert`), "
                "or listen on 127.0.0.1 behind a proxy that has one"
            )
        logger.info("Login is %s", f"on ({type(authority).__name__})" if is_on else "off: there are no users")
        return cls(authority, database, allow_anonymous=settings.allow_anonymous)

    def note(self, person: Person | None, action: str, subject: str, **details: object) -> None:
        """Add a row to the audit log. What it tells of is done: where it cannot be told, the server's log says so."""
        actor = person.name if person else ANONYMOUS
        try:
            with self._database.writing() as c:
                append(c, actor=actor, action=action, subject=subject, details=details, now=time.time())
        except Exception:
            logger.exception("The audit log could not be told: %s %s %s %s", actor, action, subject, details)


def address_of(argv: Sequence[str]) -> tuple[str | None, bool]:
    """Where `monailabel start_server` listens, by its arguments, and whether it encrypts; None for another program."""
    if "start_server" not in argv[1:]:
        return None, False
    # Its own parser cannot be had without loading all of it. The address is everybody's unless another is named.
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-i", "--host", default="0.0.0.0")
    parser.add_argument("--ssl_certfile")
    known, _ = parser.parse_known_args(list(argv[1:]))
    return known.host, bool(known.ssl_certfile)
