"""Images that were encoded, and what was shown of them last, kept in bounded memory: a turn only decodes."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from overread.domain import Grid
from overread.meduhip.reader import OpenImage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Opened:
    """An image of a client.

    Attributes:
        image: as the model sees it.
        grid: of the file.
    """

    image: OpenImage
    grid: Grid


class EncodedImages:
    """The most recently used values, at most so many bytes together.

    Args:
        most_bytes: memory that may be held. A value that is larger by itself is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._change = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        return self._bytes

    def get(self, key: Hashable) -> Any | None:
        """What is kept under a key, which is then the last to go; None where nothing is."""
        with self._change:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keep a value, and forget the longest unused ones that it takes the room of."""
        self.forget(key)
        if size_bytes > self.most_bytes:
            logger.warning(
                "%.2f GiB of an encoded image are not kept, so each turn takes as long as the first: "
                "--conf encoded_gib allows %.2f GiB",
                size_bytes / (1 << 30),
                self.most_bytes / (1 << 30),
            )
            return
        with self._change:
            self._kept[key] = (value, size_bytes)
            self._bytes += size_bytes
            while self._bytes > self.most_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed

    def forget(self, key: Hashable) -> None:
        """Free what is kept under a key, if anything is."""
        with self._change:
            found = self._kept.pop(key, None)
            self._bytes -= 0 if found is None else found[1]
