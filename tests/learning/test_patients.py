"""`patients.csv` says whose images there are; without it every case is its own patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.domain import BadInputError
from overread.learning.patients import read_patients


def test_without_a_file_every_case_is_its_own_patient(tmp_path: Path):
    assert read_patients(tmp_path)("ct_01") == "ct_01"


def test_rows_decide_and_a_case_without_one_is_its_own_patient(tmp_path: Path):
    # As a spreadsheet saves it: a byte order mark, further columns, spaces.
    text = "\ufeffcase,age,patient\nct_01,40,anna\nct_02,41, anna \nct_01,40,anna\n"
    (tmp_path / "patients.csv").write_text(text, encoding="utf-8")
    patient_of = read_patients(tmp_path)
    assert [patient_of(case) for case in ("ct_01", "ct_02", "ct_03")] == ["anna", "anna", "ct_03"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,patient\na,b\n", "has no column case; its first line must be `case,patient`"),
        (b"", "has no column case and no column patient"),
        (b"case,patient\nct_01,\n", "line 2 of .* has no patient"),
        (b"case,patient\n,anna\n", "line 2 of .* has no case"),
        (
            b"case,patient\nct_01,a\nct_01,b\n",
            "line 3 of .* gives case ct_01 to patient b; it was given to a",
        ),
        (b"case,patient\nct_01,\xff\n", "cannot be read as a table of UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "patients.csv").write_bytes(content)
    with pytest.raises(BadInputError, match=words):
        read_patients(tmp_path)
