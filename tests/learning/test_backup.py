"""A backup that is taken while labels come in holds every label that was answered before, and comes back whole."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from overread.domain import BadInputError, OverreadError
from overread.ensemble.storage import load_ensemble
from overread.learning import restoring
from overread.learning.accepted import AcceptedLabels
from overread.learning.backup import LEDGERS, Manifest, make_backup, read_manifest
from overread.learning.champions import ChampionStore
from overread.learning.label_files import sha256_of
from overread.learning.restoring import check_backup, restore_backup
from overread.state.audit import verify
from overread.state.database import Database
from overread.state.failures import DatabaseBusyError
from overread.state.labels import labels
from support.labels import LabelStore
from support.servers import publish_threshold


@dataclass(frozen=True)
class Ward:
    """A studies folder with labels, and an app folder with a champion."""

    store: LabelStore
    studies: Path
    models: Path

    @property
    def database(self) -> Path:
        return self.studies / "overread.db"

    def backup(self, folder: Path) -> Manifest:
        return make_backup(folder, self.studies, self.models, self.store.database)


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    """Three labels of two cases, what viewers see of them, and a champion that took the place of another."""
    studies, app = tmp_path / "studies", tmp_path / "app"
    store = LabelStore(studies)
    for case, rater in (("one", "anna"), ("one", "ben"), ("two", "anna")):
        store.add(case, rater)
    (studies / "labels" / "final").mkdir(parents=True)
    shutil.copyfile(
        studies / "accepted" / "two" / "anna-1.nii.gz", studies / "labels" / "final" / "two.nii.gz"
    )
    (studies / "datastore_v2.json").write_text("{}")
    (studies / "patients.csv").write_text("case,patient\none,p1\n")
    (studies / "one.nii.gz").write_bytes(b"an image")
    publish_threshold(app, cuts=(50.0, 110.0))
    publish_threshold(app)
    return Ward(store, studies, app / "model")


def content(folder: Path) -> dict[str, bytes]:
    """Files below a folder that are not hidden."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def test_it_comes_back_as_it_was(ward: Ward, tmp_path: Path):
    manifest = ward.backup(tmp_path / "backup")
    assert (manifest.labels, manifest.troubles) == (3, ())
    assert manifest == read_manifest(tmp_path / "backup") == check_backup(tmp_path / "backup")
    # Images come from elsewhere.
    assert "studies/one.nii.gz" not in manifest.files
    studies, models, file = (
        tmp_path / "new" / "studies",
        tmp_path / "new" / "model",
        tmp_path / "new" / "a.db",
    )
    restored = restore_backup(tmp_path / "backup", studies, models, file)
    assert restored.set_aside == ()
    kept = {
        name: data
        for name, data in content(ward.studies).items()
        if name.split(".")[0] not in ("overread", "one")
    }
    assert content(studies) == kept
    assert content(models) == content(ward.models)
    champion = ChampionStore(models).current("phantom")
    assert (
        champion.name == manifest.champions["phantom"] == ChampionStore(ward.models).current("phantom").name
    )
    assert load_ensemble(champion, verify=True).name == "phantom"
    assert len(ChampionStore(models).versions("phantom")) == 2
    database = Database.open(file)
    with database.reading() as c:
        assert labels(c) == ward.store.rows()
        assert verify(c, manifest.audit_hash) == []
    assert AcceptedLabels(studies / "accepted", database).settle(0).restored == ()
    database.close()


def test_what_was_exchanged_with_a_pacs_comes_back_and_stays_where_the_backup_knows_nothing_of_it(
    ward: Ward, tmp_path: Path
):
    without = tmp_path / "without"
    ward.backup(without)
    ledgers = {name: f'["{name}", 1]\n'.encode() for name in LEDGERS}
    for name, lines in ledgers.items():
        (ward.studies / name).write_bytes(lines)
    manifest = ward.backup(tmp_path / "backup")
    assert {
        f"studies/{name}" for name in ("seen.jsonl", "sent.jsonl", "senders.jsonl")
    } <= manifest.files.keys()
    studies = tmp_path / "new"
    restore_backup(tmp_path / "backup", studies, tmp_path / "model", tmp_path / "a.db")
    assert {name: (studies / name).read_bytes() for name in LEDGERS} == ledgers
    restored = restore_backup(without, studies, tmp_path / "model", tmp_path / "a.db", overwrite=True)
    assert not any(path.name.startswith(LEDGERS) for path in restored.set_aside)
    assert {name: (studies / name).read_bytes() for name in LEDGERS} == ledgers


def test_labels_that_come_in_meanwhile_are_whole_or_not_in_it(ward: Ward, tmp_path: Path):
    answered: list[str] = []
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            answered.append(ward.store.add(f"case {len(answered)}").file)

    writer = threading.Thread(target=submit)
    writer.start()
    try:
        while len(answered) < 5:
            stop.wait(0.01)
        for number in range(3):
            before = list(answered)
            folder = tmp_path / f"backup {number}"
            assert ward.backup(folder).troubles == ()
            file = tmp_path / f"{number}.db"
            restore_backup(folder, tmp_path / f"studies {number}", tmp_path / f"model {number}", file)
            database = Database.open(file)
            accepted = AcceptedLabels(tmp_path / f"studies {number}" / "accepted", database)
            assert accepted.settle(0).unclear == ()
            with database.reading() as c:
                rows = labels(c)
                assert verify(c) == []
            database.close()
            assert set(before) <= {row.file for row in rows}
            assert all(sha256_of(accepted.folder / row.file) == row.sha256 for row in rows)
    finally:
        stop.set()
        writer.join()


def test_labels_that_turned_bad_are_told_and_the_rest_is_saved(ward: Ward, tmp_path: Path):
    (ward.studies / "accepted" / "one" / "anna-1.nii.gz").write_bytes(b"changed")
    (ward.studies / "accepted" / "two" / "anna-1.nii.gz").unlink()
    manifest = ward.backup(tmp_path / "backup")
    assert set(manifest.troubles) == {
        "the label one/anna-1.nii.gz is not what was accepted: its sha256 differs",
        "the label two/anna-1.nii.gz is in the database and its file is gone",
    }
    assert check_backup(tmp_path / "backup").labels == 3


def test_a_backup_goes_into_a_new_folder_and_leaves_nothing_where_it_fails(ward: Ward, tmp_path: Path):
    (tmp_path / "backup").mkdir()
    ward.backup(tmp_path / "backup")
    with pytest.raises(BadInputError, match="backup is there already"):
        ward.backup(tmp_path / "backup")
    (tmp_path / "file").touch()
    with pytest.raises(OverreadError, match="the backup was not made: Not a directory"):
        ward.backup(tmp_path / "file" / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "backup", "file", "studies"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("studies/accepted/one/ben-1.nii.gz", "its sha256 differs"),
        ("database/overread.db", "its sha256 differs"),
        ("studies/patients.csv", "its sha256 differs"),
    ],
)
def test_a_backup_that_changed_is_refused_before_anything_is_written(
    ward: Ward, tmp_path: Path, name: str, words: str
):
    folder = tmp_path / "backup"
    ward.backup(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BadInputError, match=rf"is damaged: {name} is not what was copied: {words}"):
        restore_backup(folder, tmp_path / "s", tmp_path / "m", tmp_path / "d.db")
    (folder / name).unlink()
    with pytest.raises(BadInputError, match=f"is damaged: {name} is gone"):
        check_backup(folder)
    assert not any((tmp_path / part).exists() for part in ("s", "m", "d.db"))


def test_what_is_no_backup_is_refused(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"is no backup: it holds no manifest\.json"):
        check_backup(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInputError, match="cannot be read"):
        check_backup(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1, "files": {"studies/labels/../../x": {}}}')
    with pytest.raises(BadInputError, match=r"studies/labels/\.\./\.\./x leads out of the folder"):
        check_backup(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(BadInputError, match="has format 99, this Overread reads 1"):
        check_backup(tmp_path)


def test_a_log_that_was_cut_before_the_backup_was_signed_betrays_itself(ward: Ward, tmp_path: Path):
    folder = tmp_path / "backup"
    ward.backup(folder)
    text = (folder / "manifest.json").read_text()
    noted = read_manifest(folder).audit_hash
    (folder / "manifest.json").write_text(text.replace(noted, "f" * 64))
    with pytest.raises(BadInputError, match=f"no row of the audit log has the expected hash {'f' * 64}"):
        check_backup(folder)


def test_what_is_there_is_not_written_over_unless_told_and_then_set_aside(ward: Ward, tmp_path: Path):
    folder = tmp_path / "backup"
    ward.backup(folder)
    later = ward.store.add("three")
    places = ward.studies, ward.models, ward.database
    with pytest.raises(DatabaseBusyError, match="is in use: stop the server first"):
        restore_backup(folder, *places, overwrite=True)
    ward.store.database.close()
    before = content(ward.studies)
    with pytest.raises(
        BadInputError, match=r"something already at .*accepted, .* with --overwrite it is set aside"
    ):
        restore_backup(folder, *places)
    assert content(ward.studies) == before
    restored = restore_backup(folder, *places, overwrite=True)
    assert len(restored.set_aside) == 6
    assert not (ward.studies / "accepted" / later.file).exists()
    aside = next(path for path in restored.set_aside if path.name.startswith("accepted.before-"))
    assert sha256_of(aside / later.file) == later.sha256
    database = Database.open(ward.database)
    with database.reading() as c:
        assert len(labels(c)) == 3
    database.close()
    old = next(path for path in restored.set_aside if path.name.startswith("overread.db.before-"))
    database = Database.open(old)
    with database.reading() as c:
        assert len(labels(c)) == 4
    database.close()


def test_a_restore_that_fails_in_the_middle_leaves_all_as_it_was(ward: Ward, tmp_path: Path, monkeypatch):
    folder = tmp_path / "backup"
    ward.backup(folder)
    ward.store.add("three")
    rows = ward.store.rows()
    ward.store.database.close()
    before, models = content(ward.studies), content(ward.models)
    calls = iter([None, None])

    def fail(path: Path) -> None:
        if next(calls, path) is not None:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(restoring, "sync_folder", fail)
    with pytest.raises(OverreadError, match="nothing was restored: No space left on device"):
        restore_backup(folder, ward.studies, ward.models, ward.database, overwrite=True)
    # The database's write-ahead log was merged into it.
    assert {**content(ward.studies), "overread.db": b""} == {**before, "overread.db": b""}
    assert content(ward.models) == models
    assert ward.store.rows() == rows
    ward.store.database.close()
    assert [path for path in ward.studies.iterdir() if path.name.endswith(".restoring")] == []


def test_a_damaged_database_does_not_stand_in_the_way(ward: Ward, tmp_path: Path):
    folder = tmp_path / "backup"
    ward.backup(folder)
    ward.store.database.close()
    ward.database.write_bytes(b"rubbish, once a database" * 100)
    restore_backup(folder, ward.studies, ward.models, ward.database, overwrite=True)
    database = Database.open(ward.database)
    assert database.damage() == []
    database.close()
