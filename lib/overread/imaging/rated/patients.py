"""Whose cases they are: a table beside the data, a pattern in the names, or what is known of LIDC's names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overread.domain import BadInputError
from overread.imaging.dataset import Problem

TABLES = ("patients.csv", "index.csv")
CASE_COLUMNS = ("case", "id")
# As TCIA names the patients of LIDC-IDRI, at the start of a file's name.
LIDC_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")


@dataclass(frozen=True)
class Owners:
    """Patient and published part by case, and rows of the table that name no case."""

    patients: Mapping[str, str]
    subsets: Mapping[str, str]
    strays: tuple[Problem, ...]

    @property
    def are_lidc(self) -> bool:
        """Whether all are of LIDC-IDRI, whose readers are anonymous and numbered anew for each scan."""
        return all(LIDC_PATIENT.fullmatch(name) for name in self.patients.values())


def find_owners(folder: Path, cases: Iterable[str], patient_pattern: str | None = None) -> Owners:
    """Find out whose each case is; who is not told is a patient of its own.

    `patients.csv`, else `index.csv`, with the columns `case` (or `id`), `patient` and perhaps `subset`, goes before
    the pattern, and the pattern before LIDC's names.

    Args:
        folder: holds the table, or none.
        cases: ids.
        patient_pattern: regular expression whose first group (or whole match) in an id is the patient.

    Raises:
        BadInputError: a table that cannot be read or gives a case to two patients, a pattern that is none or does
            not match an id.
    """
    ids = tuple(cases)
    path = next((folder / name for name in TABLES if (folder / name).exists()), None)
    rows = {} if path is None else _read_table(path)
    pattern = _compiled(patient_pattern)
    patients = {}
    for case in ids:
        told = rows.get(case, {}).get("patient")
        patients[case] = told or _by_name(case, pattern)
    subsets = {case: subset for case in ids if (subset := rows.get(case, {}).get("subset"))}
    strays = tuple(
        Problem(case, path.name if path else "", "is in the table, but not among the images")
        for case in sorted(rows.keys() - set(ids))
    )
    return Owners(patients, subsets, strays)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise BadInputError(f"patient pattern {pattern!r} is not a regular expression: {error}") from error


def _by_name(case: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        lidc = LIDC_PATIENT.match(case)
        return lidc[0] if lidc else case
    match = pattern.search(case)
    name = match and (match[1] if pattern.groups else match[0])
    if not name:
        raise BadInputError(f"patient pattern {pattern.pattern!r} finds no patient in case {case}")
    return name


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            column = next((name for name in CASE_COLUMNS if name in (reader.fieldnames or ())), None)
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    if column is None:
        raise BadInputError(f"{path} lacks a column 'case'")
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        case = (line[column] or "").strip()
        row = {key: (line.get(key) or "").strip() for key in ("patient", "subset")}
        if rows.setdefault(case, row) != row:
            raise BadInputError(f"{path} gives case {case} to two patients or parts")
    return rows
