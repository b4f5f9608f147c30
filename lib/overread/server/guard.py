"""Bodies that are too large are refused before they are kept."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from anyio import to_thread
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overread.domain import OverreadError
from overread.server.errors import status_and_sentence

# Bytes that a request with this method, path and query may send.
Limit = Callable[[str, str, dict[str, str]], int]
READING_METHODS = ("GET", "HEAD", "OPTIONS")
# Clients send everything before they read an answer; what is refused is read and thrown away up to here.
MOST_THROWN_AWAY_BYTES = 4 << 30


class UploadGuard:
    """ASGI middleware that answers 413 where a body is larger than `limit` allows.

    Args:
        limit: may raise an OverreadError, which is then the answer.
    """

    def __init__(self, app: ASGIApp, limit: Limit) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in READING_METHODS:
            await self.app(scope, receive, send)
            return
        query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        try:
            limit = await to_thread.run_sync(self.limit, scope["method"], scope["path"], query)
        except OverreadError as error:
            await throw_away(receive)
            status, sentence = status_and_sentence(error)
            await JSONResponse({"detail": sentence}, status_code=status)(scope, receive, send)
            return
        if declared.isdigit() and int(declared) > limit:
            await throw_away(receive)
            refusal = JSONResponse({"detail": too_large(int(declared), limit)}, status_code=413)
            await refusal(scope, receive, send)
            return

        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                await throw_away(receive)
                raise HTTPException(status_code=413, detail=too_large(received, limit))
            return message

        await self.app(scope, counted, send)


def too_large(size: int, limit: int) -> str:
    """The sentence for a body of at least `size` bytes."""
    return f"the request holds {size / 1e6:.4g} MB or more; at most {limit / 1e6:.4g} MB are taken here"


async def throw_away(receive: Receive, most: int = MOST_THROWN_AWAY_BYTES) -> None:
    """Read what a refused client sends, up to so many bytes."""
    thrown = 0
    while thrown < most:
        message = await receive()
        thrown += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
