"""Whose images there are, and where they were made, as `patients.csv` says at the moment."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from overread.domain import BadInputError
from overread.learning.patients import FILE, read_centres, read_patients

logger = logging.getLogger(__name__)


# The file is asked this often whether it changed: thousands of cases are looked up at a time.
LOOK_EVERY_S = 1.0


class Patients:
    """Whose images there are, and where they were made, as `patients.csv` in the studies folder says now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._patient_of, self._centre_of = read_patients(folder), read_centres(folder)
        self._version, self._looked_at = self._changed_at(), time.monotonic()

    def __call__(self, case: str) -> str:
        """Patient of a case. A file that was damaged meanwhile is reported, and what it said before holds."""
        self._look()
        return self._patient_of(case)

    def centre_of(self, case: str) -> str:
        """Where a case was made; empty where that is not known."""
        self._look()
        return self._centre_of(case)

    def _look(self) -> None:
        if time.monotonic() - self._looked_at <= LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        version = self._changed_at()
        if version == self._version:
            return
        self._version = version
        try:
            self._patient_of, self._centre_of = read_patients(self._folder), read_centres(self._folder)
        except BadInputError:
            logger.exception("What %s said before still holds", FILE)

    def _changed_at(self) -> int:
        try:
            return (self._folder / FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
