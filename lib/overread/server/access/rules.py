"""Who may send which request: the one table of it. What it does not name is for admins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from overread.access import Role


@dataclass(frozen=True)
class Rule:
    """One kind of request.

    Attributes:
        methods: of HTTP; HEAD counts as GET.
        path: of the address, without a slash at its end; `*` is one part of it, `**` all that follows or nothing.
        role: who may; None where nobody has to log in.
        action: what the audit log calls it; empty where it notes nothing, or gets a row from what is done.
        subject: the parameter of the address that says what it was done to.
    """

    methods: tuple[str, ...]
    path: str
    role: Role | None
    action: str = ""
    subject: str = ""

    def fits(self, method: str, path: str) -> bool:
        """Whether this is the rule for a request."""
        return ("GET" if method == "HEAD" else method) in self.methods and bool(
            _pattern(self.path).fullmatch(path)
        )


GET, PUT, POST, DELETE = ("GET",), ("PUT",), ("POST",), ("DELETE",)
OPEN, READER, REVIEWER, ADMIN = None, Role.READER, Role.REVIEWER, Role.ADMIN

# The first that fits decides.
RULES = (
    # How to log in, and what a browser needs for it; whether the server lives.
    Rule(GET, "/auth", OPEN),
    Rule(POST, "/auth/token", OPEN),
    Rule(GET, "/auth/token/valid", READER),
    Rule(("GET", "POST"), "/login", OPEN),
    Rule(POST, "/logout", OPEN),
    Rule(GET, "/favicon.ico", OPEN),
    Rule(GET, "/static/**", OPEN),
    Rule(GET, "/healthz/**", OPEN),
    # To read: images and what the models say of them, the own queue, the own labels.
    Rule(GET, "/", READER),
    Rule(GET, "/docs/**", READER),
    Rule(GET, "/openapi.json", READER),
    Rule(GET, "/ohif/**", READER),
    Rule(GET, "/proxy/**", READER),
    Rule(POST, "/proxy/**", READER, "stored into the PACS"),
    Rule(GET, "/info", READER),
    Rule(GET, "/metrics", READER),
    Rule(GET, "/overread/**", READER),
    # What is remembered of somebody: of others for admins alone, which the endpoints see to.
    Rule(DELETE, "/overread/preferences", READER),
    Rule(GET, "/preferences", READER),
    Rule(POST, "/preferences/forget", READER),
    Rule(GET, "/train", READER),
    Rule(POST, "/infer/**", READER),
    Rule(POST, "/activelearning/*", READER),
    Rule(PUT, "/session", READER, "image sent for a session"),
    Rule(("GET", "DELETE"), "/session/*", READER),
    Rule(GET, "/datastore", READER),
    Rule(GET, "/datastore/image", READER, "image read", "image"),
    Rule(PUT, "/datastore/image", READER, "image added", "image"),
    Rule(PUT, "/datastore", READER, "image added", "image"),
    Rule(GET, "/datastore/image/info", READER),
    Rule(GET, "/datastore/label", READER, "label read", "label"),
    Rule(PUT, "/datastore/label", READER),
    Rule(GET, "/datastore/label/info", READER),
    # To judge others' labels.
    Rule(PUT, "/datastore/image/info", REVIEWER, "facts about an image changed", "image"),
    Rule(PUT, "/datastore/label/info", REVIEWER, "facts about a label changed", "label"),
    Rule(PUT, "/datastore/updatelabelinfo", REVIEWER, "facts about a label changed", "label"),
    Rule(DELETE, "/datastore/label", REVIEWER),
    # To run the place.
    Rule(DELETE, "/datastore/image", ADMIN, "image removed", "id"),
    Rule(DELETE, "/datastore", ADMIN, "image removed", "id"),
    Rule(GET, "/datastore/dataset", ADMIN, "data set read"),
    Rule(("POST", "DELETE"), "/train/**", ADMIN),
    Rule(GET, "/logs/**", ADMIN, "logs read"),
)
EVERYTHING_ELSE = Rule(("GET", "PUT", "POST", "DELETE", "PATCH"), "/**", ADMIN, "request")


def rule_for(method: str, path: str, rules: Iterable[Rule] = RULES) -> Rule:
    """The rule that decides about a request.

    Args:
        path: of the address, decoded, as the router sees it.
    """
    plain = path.rstrip("/") or "/"
    return next((rule for rule in rules if rule.fits(method, plain)), EVERYTHING_ELSE)


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(path: str) -> re.Pattern[str]:
    if path not in _PATTERNS:
        quoted = re.escape(path).replace(r"/\*\*", "(/.*)?").replace(r"\*", "[^/]+")
        _PATTERNS[path] = re.compile(quoted, re.DOTALL)
    return _PATTERNS[path]
