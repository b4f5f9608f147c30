"""Named things that can be listed: measures, aggregations, recipes, kinds of ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from overread.domain.errors import NotFoundError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names on the wire to the things they stand for.

    Args:
        word: what one entry is called in messages, such as `measure`.
    """

    def __init__(self, word: str) -> None:
        self.word = word
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Enter `entry` as `name`. Raises ValueError where the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.word} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise NotFoundError(
                f"no {self.word} is called {name!r}; there are {', '.join(sorted(self._entries))}"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
