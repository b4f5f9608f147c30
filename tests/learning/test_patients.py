"""`patients.csv` says whose images there are; without it every case is its own patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.domain import BadInputError
from overread.learning.patients import read_centres, read_patients


def test_without_a_file_every_case_is_its_own_patient(tmp_path: Path):
    assert read_patients(tmp_path)("ct_01") == "ct_01"


def test_rows_decide_and_a_case_without_one_is_its_own_patient(tmp_path: Path):
    # As a spreadsheet saves it: a byte order mark, further columns, spaces.
    text = "\ufeffcase,age,patient\nct_01,40,anna\nct_02,41, anna \nct_01,40,anna\n"
    (tmp_path / "patients.csv").write_text(text, encoding="utf-8")
    patient_of = read_patients(tmp_path)
    assert [patient_of(case) for case in ("ct_01", "ct_02", "ct_03")] == ["anna", "anna", "ct_03"]


def test_a_row_of_a_slide_speaks_for_its_patches_and_a_slide_without_one_is_the_patient(tmp_path: Path):
    text = "case,patient,centre\nslide_1,anna,east\nslide_1-patch-0_0_9_9,ben,west\n"
    (tmp_path / "patients.csv").write_text(text)
    patient_of, centre_of = read_patients(tmp_path), read_centres(tmp_path)
    patches = ("slide_1-patch-5_0_9_9", "slide_1-patch-0_0_9_9", "slide_2-patch-0_0_9_9")
    assert [patient_of(patch) for patch in patches] == ["anna", "ben", "slide_2"]
    assert [centre_of(patch) for patch in patches] == ["east", "west", ""]


def test_a_centre_is_found_by_case_and_by_a_patient_who_was_at_one_only(tmp_path: Path):
    text = "case,patient,centre\na,anna,east\nb,ben,east\nc,ben,west\nd,dora,\n"
    (tmp_path / "patients.csv").write_text(text)
    centre_of = read_centres(tmp_path)
    assert [centre_of(name) for name in ("a", "c", "d", "anna", "ben", "dora", "x")] == [
        "east",
        "west",
        "",
        "east",
        "",
        "",
        "",
    ]


def test_without_a_file_or_the_column_no_centre_is_known(tmp_path: Path):
    assert read_centres(tmp_path)("a") == ""
    (tmp_path / "patients.csv").write_text("case,patient\na,anna\n")
    assert read_centres(tmp_path)("a") == ""
    (tmp_path / "patients.csv").write_text("case,patient,domain\na,anna,east\n")
    assert read_centres(tmp_path)("a") == "east"


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
        (
            b"case,patient,centre\nct_01,a,east\nct_01,a,west\n",
            "line 3 of .* gives case ct_01 to centre west; it was given to east before",
        ),
        (
            b"case,patient,centre,domain\nct_01,a,east,east\n",
            "has a column centre and a column domain, which mean the same",
        ),
        (b"case,patient\nct_01,\xff\n", "cannot be read as a table of UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "patients.csv").write_bytes(content)
    with pytest.raises(BadInputError, match=words):
        read_patients(tmp_path)
