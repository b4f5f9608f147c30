"""Strategies as MONAI Label lists them."""

from __future__ import annotations

from typing import Any, TypeVar

from overread.domain import Registry
from overread.queue.strategies import Strategy

V = TypeVar("V")
P = TypeVar("P")


class NamedStrategy:
    """One strategy, as MONAI Label lists it."""

    def __init__(self, description: str, is_default: bool) -> None:
        self.description = f"{description} (the default)" if is_default else description

    def info(self) -> dict[str, Any]:
        """What clients show."""
        return {"description": self.description}


def listed(strategies: Registry[Strategy[V, P]], default: str) -> dict[str, NamedStrategy]:
    """What `/info/` lists, the default first: viewers select the first."""
    names = sorted(strategies, key=lambda name: name != default)
    return {name: NamedStrategy(strategies[name].description, is_default=name == default) for name in names}
