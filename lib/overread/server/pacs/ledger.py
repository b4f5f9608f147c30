"""What was done already, one JSON line after another: after a crash at most the last line is missing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

# Keys of an object that was stored, in the ledger of those.
SERIES, INSTANCE = "series", "instance"


class Ledger:
    """A table of keys in a file that only grows; the last line of a key holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._rows: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    # Half a line is what a power cut leaves.
                    continue
                self._rows[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> Any:
        """What is noted under a key; None for nothing."""
        return self._rows.get(key)

    def items(self) -> list[tuple[str, Any]]:
        """All that is noted."""
        with self._guard:
            return list(self._rows.items())

    def note(self, key: str, value: Any) -> None:
        """Note it for good."""
        with self._guard:
            if self._rows.get(key) == value and key in self._rows:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole = not self._path.exists() or self._path.read_bytes()[-1:] in (b"\n", b"")
            with self._path.open("a") as file:
                file.write(("" if whole else "\n") + json.dumps([key, value]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._rows[key] = value
