"""Whose images there are: `patients.csv` in the studies folder.

case,patient
ct_01,anna
ct_01_followup,anna
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from overread.domain import BadInputError

FILE = "patients.csv"
COLUMNS = ("case", "patient")


def read_patients(folder: Path) -> Callable[[str], str]:
    """From a case's id to its patient. A case without a row, and every case without the file, is its own patient.

    Raises:
        BadInputError: the file cannot be read, lacks a column or a value, or gives a case to two patients.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return lambda case: case
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise BadInputError(
                    f"{path} has no column {' and no column '.join(missing)}; its first line must be `case,patient`"
                )
            patients: dict[str, str] = {}
            for row in table:
                case, patient = ((row[column] or "").strip() for column in COLUMNS)
                if not case or not patient:
                    raise BadInputError(
                        f"line {table.line_num} of {path} has no {'patient' if case else 'case'}"
                    )
                if patients.setdefault(case, patient) != patient:
                    raise BadInputError(
                        f"line {table.line_num} of {path} gives case {case} to patient {patient}; "
                        f"it was given to {patients[case]} before"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} cannot be read as a table of UTF-8 text: {error}") from error
    return lambda case: patients.get(case, case)
