"""Whether a request comes from a page of ours, or from any page that the user's browser has open.

A browser sends what a strange page asks for with the user's cookie, and reaches servers on loopback that ask for no
login at all. Programs such as 3D Slicer and QuPath say nothing of where they come from, and are no browsers.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request

from overread.access.exposure import is_loopback

HARMLESS = ("GET", "HEAD", "OPTIONS")


def is_from_elsewhere(request: Request, allowed: Collection[str] = ()) -> bool:
    """Whether the page of another site makes this request, and it might change something.

    Args:
        allowed: origins, as `https://viewer.example`, that may.
    """
    if request.method in HARMLESS:
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return origin not in allowed and _host_of(origin) != request.headers.get("host", "")


def is_loopback_name(host: str) -> bool:
    """Whether a Host header names this machine to itself.

    Another name on a loopback address is how a strange page reaches past its own origin (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    is_number = not name.strip("0123456789.:abcdef")
    return name == "localhost" or name.endswith(".localhost") or (is_number and is_loopback(name))


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
