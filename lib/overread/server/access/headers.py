"""Headers that tell browsers to be careful, on every answer."""

from __future__ import annotations

import base64
import hashlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# OHIF makes workers from blobs and compiles WebAssembly, so scripts are left to what a page says itself.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "frame-ancestors 'self'; object-src 'none'; base-uri 'self'; form-action 'self'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
# A year, as the standard's examples have it (RFC 6797).
HTTPS_ONLY = "max-age=31536000"
# The program of a page may be kept by browsers, what it shows of patients may not.
KEPT_BY_BROWSERS = ("/static/", "/ohif/", "/favicon.ico")


def closed_policy(style: str, *more: str) -> str:
    """The `Content-Security-Policy` of a page that runs no script and loads nothing but its own style.

    Args:
        more: what it may do besides, such as `img-src 'self'`.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = ("default-src 'none'", f"style-src 'sha256-{digest}'", *more)
    return "; ".join((*rules, "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"))


class SafeHeaders:
    """ASGI middleware; what an answer sets itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add to the answer's headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", HTTPS_ONLY)
                if not scope["path"].startswith(KEPT_BY_BROWSERS):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)
