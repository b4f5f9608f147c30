"""`overread audit` says whether the log is whole, and copies it for a spreadsheet."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from overread.cli import app
from overread.state.audit import append
from overread.state.database import Database, default_path

TAMPERING = ("DROP TRIGGER audit_refuses_update", "UPDATE audit SET actor = 'nobody' WHERE seq = 2")


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    """An app whose log has three rows."""
    folder = tmp_path / "radiology"
    folder.mkdir()
    (folder / "main.py").touch()
    database = Database.open(default_path(folder))
    with database.writing() as c:
        for number in range(3):
            details = {"reason": 'members disagree, "top 3 %"'}
            append(
                c,
                actor="Ä",
                action="case served",
                subject=f"case {number}",
                details=details,
                now=0.1 + number,
            )
    database.close()
    return folder


def audit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def tamper(app_folder: Path) -> None:
    database = Database.open(default_path(app_folder))
    with database.writing() as c:
        for statement in TAMPERING:
            c.execute(text(statement))
    database.close()


def test_verify_tells_the_last_hash_of_an_intact_log(app_folder: Path):
    answer = audit("verify", "--app", app_folder)
    assert answer.exit_code == 0
    assert "is intact: 3 rows." in answer.stdout
    noted = answer.stdout.split("Last hash: ")[1].strip()
    assert audit("verify", "--app", app_folder, "--expect", noted).exit_code == 0


def test_verify_names_the_row_that_was_changed_and_fails(app_folder: Path):
    tamper(app_folder)
    answer = audit("verify", "--app", app_folder)
    assert answer.exit_code == 1
    assert "intact" not in answer.stdout
    assert answer.stderr.strip() == (
        "Error: row 2 of the audit log is not what was written: its hash does not fit"
    )


def test_verify_answers_a_script_in_json(app_folder: Path):
    whole = json.loads(audit("verify", "--app", app_folder, "--json").stdout)
    assert (whole["intact"], whole["found"], whole["rows"], len(whole["hash"])) == (True, [], 3, 64)
    tamper(app_folder)
    answer = audit("verify", "--app", app_folder, "--json")
    assert answer.exit_code == 1
    broken = json.loads(answer.stdout)
    assert (broken["intact"], len(broken["found"]), broken["rows"]) == (False, 1, None)


def test_verify_fails_where_a_noted_hash_is_gone(app_folder: Path):
    answer = audit("verify", "--app", app_folder, "--expect", "f" * 64)
    assert answer.exit_code == 1
    assert f"no row of the audit log has the expected hash {'f' * 64}" in answer.stderr


def test_verify_names_a_damaged_file(app_folder: Path):
    default_path(app_folder).write_bytes(b"no database" * 1000)
    answer = audit("verify", "--app", app_folder)
    assert answer.exit_code == 1
    assert "overread.db is damaged" in " ".join(answer.stderr.split())


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path):
    answer = audit("verify", "--database", tmp_path / "other.db")
    assert answer.exit_code == 1
    assert "there is no database at" in " ".join(answer.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_export_writes_every_row_with_its_exact_time(app_folder: Path, tmp_path: Path):
    file = tmp_path / "audit.csv"
    answer = audit("export", "--app", app_folder, "--csv", file)
    assert answer.exit_code == 0
    assert answer.stdout == ""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["seq"] for row in rows] == ["1", "2", "3"]
    assert rows[1]["time"] == "1970-01-01T00:00:01.100+00:00"
    assert rows[1]["at"] == "1.1"
    assert rows[1]["actor"] == "Ä"
    assert json.loads(rows[1]["details"]) == {"reason": 'members disagree, "top 3 %"'}
    assert rows[1]["previous"] == rows[0]["hash"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.csv", "radiology"]


def test_export_prints_json_for_a_script(app_folder: Path):
    rows = json.loads(audit("export", "--database", default_path(app_folder), "--json").stdout)
    assert [row["subject"] for row in rows] == ["case 0", "case 1", "case 2"]


def test_export_wants_to_know_where_to(app_folder: Path):
    answer = audit("export", "--app", app_folder)
    assert answer.exit_code == 2
    assert "--csv FILE, or --json" in " ".join(answer.stderr.split())


def test_export_into_a_folder_that_is_not_there_is_refused(app_folder: Path, tmp_path: Path):
    answer = audit("export", "--app", app_folder, "--csv", tmp_path / "missing" / "audit.csv")
    assert answer.exit_code == 1
    assert "cannot be written: No such file or directory" in " ".join(answer.stderr.split())
