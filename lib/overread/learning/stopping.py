"""How long work ends when asked to: at its next step, keeping what it has."""

from __future__ import annotations

from threading import Event


class StoppedError(Exception):
    """Somebody asked to stop. What was done so far is kept, and the same call goes on from there."""


def raise_if_stopped(stop: Event | None) -> None:
    """Raise StoppedError once `stop` is set."""
    if stop is not None and stop.is_set():
        raise StoppedError("stopped on request; the same call goes on from here")
