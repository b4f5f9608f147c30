"""Read ahead of who consumes, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Generic, TypeVar

from overread.domain.errors import BadInputError

Item = TypeVar("Item")
Read = TypeVar("Read")


class ReadAhead(Generic[Item, Read]):
    """Iterates over (item, read(item)) in the order of the items, and reads the next ones meanwhile.

    Slides are decoded outside of Python's lock, so threads read while the network computes. An error of `read` is
    raised where its item would have come, and ends the iteration. Leaving the `with` block, or `close`, stops the
    reading and returns when no thread reads any more.

    Attributes:
        waited_s: seconds that the consumer has waited for an item.
        read_s: seconds of reading, summed over the threads.
    """

    def __init__(
        self, items: Iterable[Item], read: Callable[[Item], Read], *, workers: int = 2, ahead: int = 8
    ) -> None:
        """
        Args:
            items: taken one by one as there is room for what is read of them.
            read: called in the threads.
            workers: number of threads.
            ahead: items that are read, or being read, and not yet handed over.
        """
        if workers < 1 or ahead < 1:
            raise BadInputError(
                f"{workers} workers that read {ahead} ahead read nothing; both are at least 1"
            )
        self.waited_s = 0.0
        self.read_s = 0.0
        self._items = iter(items)
        self._read = read
        self._ahead = ahead
        self._coming: deque[tuple[Item, Future[Read]]] = deque()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
        self._lock = Lock()
        self._is_closed = False

    def __iter__(self) -> Iterator[tuple[Item, Read]]:
        return self

    def __next__(self) -> tuple[Item, Read]:
        try:
            self._fill()
            if not self._coming:
                raise StopIteration
            item, future = self._coming.popleft()
            start = perf_counter()
            try:
                read = future.result()
            finally:
                self.waited_s += perf_counter() - start
            # The one that is handed over has made room.
            self._fill()
            return item, read
        except BaseException:
            self.close()
            raise

    def _fill(self) -> None:
        while not self._is_closed and len(self._coming) < self._ahead:
            try:
                item = next(self._items)
            except StopIteration:
                return
            self._coming.append((item, self._threads.submit(self._timed, item)))

    def _timed(self, item: Item) -> Read:
        start = perf_counter()
        try:
            return self._read(item)
        finally:
            with self._lock:
                self.read_s += perf_counter() - start

    def close(self) -> None:
        """Stop reading; what was read and not handed over is dropped."""
        self._is_closed = True
        self._coming.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ReadAhead[Item, Read]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
