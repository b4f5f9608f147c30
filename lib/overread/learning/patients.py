"""Whose images there are, and where they were made: `patients.csv` in the studies folder.

case,patient,centre
ct_01,anna,east
ct_01_followup,anna,east

The third column may be left out, and its cells may be empty. A row of a slide speaks for all its patches.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from overread.domain import BadInputError
from overread.domain.slides import PatchLocation

FILE = "patients.csv"
COLUMNS = ("case", "patient")
CENTRE = "centre"


@dataclass(frozen=True)
class _Row:
    patient: str
    centre: str


def read_patients(folder: Path) -> Callable[[str], str]:
    """From a case's id to its patient. A case without a row, and every case without the file, is its own patient.

    A patch of a slide has its slide's patient, which is the slide itself where it has no row.

    Raises:
        BadInputError: the file cannot be read, lacks a column or a value, or gives a case to two patients or centres.
    """
    rows = _read(Path(folder) / FILE)

    def patient_of(case: str) -> str:
        known = [name for name in _names(case) if name in rows]
        return rows[known[0]].patient if known else _names(case)[-1]

    return patient_of


def read_centres(folder: Path) -> Callable[[str], str]:
    """From a case's id, or a patient's, to the centre; empty where it is not known, or a patient has several.

    Raises as `read_patients`.
    """
    rows = _read(Path(folder) / FILE)
    of_patient: dict[str, set[str]] = {}
    for row in rows.values():
        of_patient.setdefault(row.patient, set()).add(row.centre)

    def centre_of(case: str) -> str:
        for name in _names(case):
            if name in rows:
                return rows[name].centre
        centres = of_patient.get(case, set())
        return next(iter(centres)) if len(centres) == 1 else ""

    return centre_of


def _names(case: str) -> tuple[str, ...]:
    """Under which names a case may have a row: its own; of a patch then its slide's."""
    patch = PatchLocation.parse(case)
    return (case,) if patch is None else (case, patch.slide)


def _read(path: Path) -> dict[str, _Row]:
    if not path.exists():
        return {}
    rows: dict[str, _Row] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise BadInputError(
                    f"{path} has no column {' and no column '.join(missing)}; its first line must be `case,patient`"
                )
            for line in table:
                case, patient = ((line[column] or "").strip() for column in COLUMNS)
                centre = (line.get(CENTRE) or "").strip()
                if not case or not patient:
                    raise BadInputError(
                        f"line {table.line_num} of {path} has no {'patient' if case else 'case'}"
                    )
                before = rows.setdefault(case, _Row(patient, centre))
                for what, then, now in (
                    ("patient", before.patient, patient),
                    ("centre", before.centre, centre),
                ):
                    if then != now:
                        raise BadInputError(
                            f"line {table.line_num} of {path} gives case {case} to {what} {now}; "
                            f"it was given to {then} before"
                        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} cannot be read as a table of UTF-8 text: {error}") from error
    return rows
