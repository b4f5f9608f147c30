"""Whose images there are, as `patients.csv` says at the moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from overread.domain import BadInputError
from overread.learning.patients import FILE, read_patients

logger = logging.getLogger(__name__)


# The file is asked this often whether it changed: thousands of cases are looked up at a time.
LOOK_EVERY_S = 1.0


class Patients:
    """Whose images there are, as `patients.csv` in the studies folder says now.

    Args:
        read: what is asked of the file; `read_centres` makes this the centres of the images.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Callable[[str], str]] = read_patients) -> None:
        self._folder, self._read = folder, read
        self._patient_of = read(folder)
        self._version, self._looked_at = self._changed_at(), time.monotonic()

    def __call__(self, case: str) -> str:
        """Patient of a case. A file that was damaged meanwhile is reported, and what it said before holds."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._look()
        return self._patient_of(case)

    def _look(self) -> None:
        version = self._changed_at()
        if version == self._version:
            return
        self._version = version
        try:
            self._patient_of = self._read(self._folder)
        except BadInputError:
            logger.exception("What %s said before still holds", FILE)

    def _changed_at(self) -> int:
        try:
            return (self._folder / FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
