"""`overread backup`, `restore` and `export` tell what they did, and exit with 1 where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from overread.cli import app
from overread.learning.champions import ChampionStore
from overread.state.database import Database, default_path
from overread.state.labels import labels
from support.labels import CLASSES, LabelStore
from support.servers import publish_threshold


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder with an app, its studies and one label of its model."""
    folder = tmp_path / "radiology"
    folder.mkdir()
    (folder / "main.py").touch()
    publish_threshold(folder, "liver", classes=CLASSES)
    store = LabelStore(tmp_path / "studies")
    store.database.close()
    store.database = Database.open(default_path(folder))
    store.accepted.database = store.database
    store.add("one")
    store.image_of("one")
    store.database.close()
    return tmp_path


def overread(ward: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--app", str(ward / "radiology")])


def test_a_backup_is_made_checked_and_put_back(ward: Path):
    made = overread(ward, "backup", ward / "backup", "--studies", ward / "studies", "--json")
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    assert (facts["labels"], facts["troubles"], facts["database"]) == (1, [], "sqlite")
    assert facts["champions"] == {"liver": ChampionStore(ward / "radiology" / "model").current("liver").name}
    checked = overread(ward, "restore", ward / "backup", "--check")
    assert checked.exit_code == 0
    assert "backup is whole: 1 labels, champions (liver " in checked.stdout.replace("\n", "")
    refused = overread(ward, "restore", ward / "backup", "--studies", ward / "studies")
    assert refused.exit_code == 1
    assert "with --overwrite it is set aside" in refused.output
    options = ("--studies", ward / "studies", "--overwrite")
    restored = overread(ward, "restore", ward / "backup", *options, "--json")
    assert restored.exit_code == 0, restored.output
    told = json.loads(restored.stdout)
    assert len(told["restored"]) == len(told["set_aside"]) == 3
    database = Database.open(default_path(ward / "radiology"))
    with database.reading() as c:
        assert len(labels(c)) == 1
    database.close()
    again = overread(ward, "restore", ward / "backup", *options)
    assert again.stdout.count("Set aside: ") == 3


def test_without_studies_or_a_whole_backup_nothing_is_restored(ward: Path):
    overread(ward, "backup", ward / "backup", "--studies", ward / "studies")
    assert overread(ward, "restore", ward / "backup").exit_code == 2
    (ward / "backup" / "studies" / "accepted" / "one" / "anna-1.nii.gz").unlink()
    for further in (("--check",), ("--studies", ward / "new")):
        broken = overread(ward, "restore", ward / "backup", *further)
        assert broken.exit_code == 1
        assert "accepted/one/anna-1.nii.gz is gone" in broken.output.replace("\n", "")
    assert not (ward / "new").exists()


def test_a_label_that_turned_bad_is_told_by_the_exit_code_and_the_backup_is_kept(ward: Path):
    (ward / "studies" / "accepted" / "one" / "anna-1.nii.gz").write_bytes(b"changed")
    made = overread(ward, "backup", ward / "backup", "--studies", ward / "studies")
    assert made.exit_code == 1
    assert "one/anna-1.nii.gz is not what was accepted" in made.output.replace("\n", "")
    assert overread(ward, "restore", ward / "backup", "--check").exit_code == 0


def test_an_export_says_how_many_cases_and_what_was_left_out(ward: Path):
    made = overread(ward, "export", "liver", ward / "out", "--studies", ward / "studies", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout) == {
        "folder": str(ward / "out"),
        "cases": ["one"],
        "labels": 1,
        "left_out": [],
    }
    assert (ward / "out" / "labelsTr" / "one.nii.gz").is_file()
    again = overread(ward, "export", "liver", ward / "out", "--studies", ward / "studies")
    assert again.exit_code == 1
    assert "the export goes into a new folder" in again.output.replace("\n", " ")
    (ward / "studies" / "one.nii.gz").unlink()
    empty = overread(ward, "export", "liver", ward / "empty", "--studies", ward / "studies")
    assert empty.exit_code == 1
    assert "its image is not here" in empty.output.replace("\n", " ")
