"""The table of whose images there are, and where they were made: `patients.csv`.

case,patient,centre
ct_01,anna,east
ct_01_followup,anna,east

The third column may be left out or called `domain`, and its cells may be empty. A row of a slide speaks for all its
patches.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from overread.domain import BadInputError
from overread.domain.slides import PatchLocation

FILE = "patients.csv"
COLUMNS = ("case", "patient")
CENTRE_COLUMNS = ("centre", "domain")


@dataclass(frozen=True)
class Origin:
    """Whose a case is and where it was made; the centre is empty where it is not told."""

    patient: str
    centre: str


def read_origins(folder: Path) -> dict[str, Origin]:
    """The table's rows by case; none without the file.

    Raises:
        BadInputError: the file cannot be read, lacks a column or a value, or gives a case to two patients or centres.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return {}
    rows: dict[str, Origin] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            names = table.fieldnames or ()
            missing = [column for column in COLUMNS if column not in names]
            if missing:
                raise BadInputError(
                    f"{path} has no column {' and no column '.join(missing)}; its first line must be `case,patient`"
                )
            centres = [column for column in CENTRE_COLUMNS if column in names]
            if len(centres) > 1:
                raise BadInputError(
                    f"{path} has a column {' and a column '.join(centres)}, which mean the same; leave one out"
                )
            for line in table:
                case, patient, *centre = ((line[column] or "").strip() for column in (*COLUMNS, *centres))
                if not case or not patient:
                    raise BadInputError(
                        f"line {table.line_num} of {path} has no {'patient' if case else 'case'}"
                    )
                origin = Origin(patient, "".join(centre))
                before = rows.setdefault(case, origin)
                for what, then, now in (
                    ("patient", before.patient, origin.patient),
                    ("centre", before.centre, origin.centre),
                ):
                    if then != now:
                        raise BadInputError(
                            f"line {table.line_num} of {path} gives case {case} to {what} {now}; "
                            f"it was given to {then} before"
                        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} cannot be read as a table of UTF-8 text: {error}") from error
    return rows


def names_of(case: str) -> tuple[str, ...]:
    """Under which names a case may have a row: its own; of a patch then its slide's."""
    patch = PatchLocation.parse(case)
    return (case,) if patch is None else (case, patch.slide)
