"""Of PostgreSQL a backup saves labels and champions, and says that the database has to be saved otherwise."""

from __future__ import annotations

from pathlib import Path

from overread.learning.accepted import AcceptedLabels
from overread.learning.backup import POSTGRESQL, make_backup
from overread.learning.restoring import restore_backup
from overread.state.audit import last_row
from overread.state.database import Database
from support.labels import LabelStore


def test_its_labels_are_saved_and_come_back_without_it(postgres: str, tmp_path: Path):
    store = LabelStore(tmp_path / "studies")
    store.database.close()
    store.database = Database.open(f"{postgres}/postgres")
    store.accepted = AcceptedLabels(store.folder / "accepted", store.database)
    row = store.add("one")
    manifest = make_backup(tmp_path / "backup", store.folder, tmp_path / "model", store.database)
    with store.database.reading() as c:
        assert (manifest.audit_rows, manifest.audit_hash) == last_row(c)
    store.database.close()
    assert (manifest.database, manifest.labels, manifest.troubles) == (POSTGRESQL, 1, ())
    assert "database/overread.db" not in manifest.files
    new = tmp_path / "new"
    restore_backup(tmp_path / "backup", new, tmp_path / "model", f"{postgres}/postgres")
    # The server makes the rows anew from the files beside the labels, where the database is lost.
    database = Database.open(tmp_path / "other.db")
    assert AcceptedLabels(new / "accepted", database).settle(0).restored == (row.file,)
    database.close()
