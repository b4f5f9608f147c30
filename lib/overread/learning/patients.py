"""Whose images there are, and where they were made, by the `patients.csv` of the studies folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from overread.imaging.patients import FILE, names_of, read_origins

__all__ = ["FILE", "read_centres", "read_patients"]


def read_patients(folder: Path) -> Callable[[str], str]:
    """From a case's id to its patient. A case without a row, and every case without the file, is its own patient.

    A patch of a slide has its slide's patient, which is the slide itself where it has no row.

    Raises:
        BadInputError: the file cannot be read, lacks a column or a value, or gives a case to two patients or centres.
    """
    rows = read_origins(folder)

    def patient_of(case: str) -> str:
        known = [name for name in names_of(case) if name in rows]
        return rows[known[0]].patient if known else names_of(case)[-1]

    return patient_of


def read_centres(folder: Path) -> Callable[[str], str]:
    """From a case's id, or a patient's, to the centre; empty where it is not known, or a patient has several.

    Raises as `read_patients`.
    """
    rows = read_origins(folder)
    of_patient: dict[str, set[str]] = {}
    for row in rows.values():
        of_patient.setdefault(row.patient, set()).add(row.centre)

    def centre_of(case: str) -> str:
        for name in names_of(case):
            if name in rows:
                return rows[name].centre
        centres = of_patient.get(case, set())
        return next(iter(centres)) if len(centres) == 1 else ""

    return centre_of
