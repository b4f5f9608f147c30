"""Read ahead of who consumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


class ReadAhead(Generic[Item, Read]):
    """Iterates over (item, read(item)) in order."""

    waited_s: float
    read_s: float

    def __init__(
        self, items: Iterable[Item], read: Callable[[Item], Read], *, workers: int = 2, ahead: int = 8
    ) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Item, Read]]:
        return self

    def __next__(self) -> tuple[Item, Read]:
        raise NotImplementedError

    def close(self) -> None:
        """Stop reading."""
