"""A label that was accepted survives a kill at any moment; what was half written is cleared away."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from overread.domain.labels import IGNORE
from overread.learning.label_files import sha256_of
from overread.state.audit import rows, verify
from overread.state.labels import labels
from overread.state.schema import LABELS
from overread.state.servings import SUBMITTED, open_servings, servings
from support.labels import CLASSES, RECIPE, LabelStore, block
from support.writers import CONTEXT

KILLS = 12
SEED = 7


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path)


def forget_row(store: LabelStore, file: str) -> None:
    """As if the process had been killed after its files were in place and before the database had the row."""
    with store.database.writing() as c:
        c.execute(LABELS.delete().where(LABELS.c.file == file))


def test_a_store_that_is_sound_is_left_as_it_is(store):
    store.add("case")
    before = store.files(), store.rows()
    settled = store.accepted.settle(store.now)
    assert (settled.restored, settled.dropped, settled.unclear) == ((), (), ())
    assert (store.files(), store.rows()) == before


def test_half_written_files_are_removed(store):
    store.add("case")
    folder = store.accepted.folder / "case"
    (folder / ".8d3f.nii.gz").write_bytes(b"half")
    (folder / ".anna-2.json").write_text("{")
    (folder / "anna-2.json").write_text((folder / "anna-1.json").read_text())
    settled = store.accepted.settle(store.now)
    assert sorted(settled.dropped) == ["case/.8d3f.nii.gz", "case/.anna-2.json", "case/anna-2.json"]
    assert store.files() == {"case/anna-1.nii.gz", "case/anna-1.json"}
    assert [row.revision for row in store.rows()] == [1]


def test_a_row_that_was_lost_comes_back_with_all_it_said_and_ends_the_serving(store):
    partial = block()
    partial[5] = IGNORE
    row = store.add("case", voxels=partial, serving=store.serve("case"), proposal=block(1, 1, 3))
    with store.database.writing() as c:
        c.exec_driver_sql("UPDATE servings SET ended_at = NULL, outcome = NULL")
    forget_row(store, row.file)
    assert store.cases() == {}
    assert store.accepted.settle(store.now).restored == ("case/anna-1.nii.gz",)
    (restored,) = store.rows()
    assert {**vars(restored), "id": 0} == {**vars(row), "id": 0}
    with store.database.reading() as c:
        assert open_servings(c) == []
        assert [serving.outcome for serving in servings(c)] == [SUBMITTED]
        assert list(rows(c))[-1].action == "label restored"
        assert verify(c) == []
    assert store.accepted.settle(store.now).restored == ()


def test_a_database_that_was_lost_is_filled_again(store, tmp_path):
    store.add_control("random")
    store.add("visit 1", patient="p1")
    store.add_control("visit 2", patient="p1")
    store.add("random", "ben")
    before = store.rows()
    store.database.close()
    for file in tmp_path.glob("overread.db*"):
        file.unlink()
    again = LabelStore(tmp_path)
    assert len(again.accepted.settle(again.now).restored) == 4
    assert [(row.file, row.protected) for row in again.rows()] == [
        (row.file, row.protected) for row in before
    ]
    assert set(again.cases()) == {"random", "visit 1", "visit 2"}


def test_a_sidecar_that_cannot_be_understood_is_reported_and_nothing_is_removed(store):
    row = store.add("case")
    forget_row(store, row.file)
    (store.accepted.folder / "case/anna-1.json").write_text('{"rater": "anna"}')
    (sentence,) = store.accepted.settle(store.now).unclear
    assert "anna-1.json does not tell where its label came from" in sentence
    assert store.files() == {"case/anna-1.nii.gz", "case/anna-1.json"}


def add_until_killed(folder: Path, case: str, told: Connection) -> None:
    """Add labels one after another; say of each when it was kept."""
    store = LabelStore(folder)
    while True:
        row = store.add(case, "anna", serving=None)
        told.send((row.file, row.sha256))


def test_what_was_told_to_be_kept_is_there_after_a_kill_at_any_moment(store, tmp_path):
    moments = random.Random(SEED)
    told: dict[str, str] = {}
    for round_ in range(KILLS):
        reading, writing = CONTEXT.Pipe(duplex=False)
        child = CONTEXT.Process(target=add_until_killed, args=(tmp_path, f"case {round_ % 3}", writing))
        child.start()
        writing.close()
        kept = [reading.recv()]
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        with suppress(EOFError, OSError):
            while True:
                kept.append(reading.recv())
        child.join()
        told |= kept
        store.accepted.settle(store.now)
        with store.database.reading() as c:
            known = {row.file: row for row in labels(c)}
            assert verify(c) == []
        assert told.items() <= {file: row.sha256 for file, row in known.items()}.items()
        sidecars = {file.replace(".nii.gz", ".json") for file in known}
        assert store.files() == set(known) | sidecars
    assert len(told) >= KILLS
    assert all(sha256_of(store.accepted.folder / file) == digest for file, digest in told.items())
    assert store.accepted.check(RECIPE, store.image_of, CLASSES, store.now) == []
