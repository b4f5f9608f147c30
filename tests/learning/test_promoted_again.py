"""A challenger that was promoted, rolled back and found better again is served again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from overread.ensemble.threshold import write_threshold_ensemble
from overread.learning.champions import ChampionStore
from overread.learning.gate import Decision
from overread.learning.versions import record_decision, roll_back, settle
from overread.state.database import Database
from overread.state.decisions import decisions

RECIPE = "organ"


@pytest.fixture
def database(tmp_path: Path):
    database = Database.open(tmp_path / "overread.db")
    yield database
    database.close()


def test_the_same_challenger_is_promoted_again_after_a_rollback(database: Database, tmp_path: Path):
    store = ChampionStore(tmp_path / "model")
    for name, cut in (("old", 10), ("new", 20)):
        write_threshold_ensemble(tmp_path / name, RECIPE, ["background", "organ"], [cut])
    old = store.publish(RECIPE, tmp_path / "old").name
    new = store.add(RECIPE, tmp_path / "new").name
    decision = Decision(old, new, True, "promoted: made up", "cross-validation", None, None)

    record_decision(database, RECIPE, tmp_path / "new", decision, time.time(), "first")
    settle(database, store)
    assert store.current(RECIPE).name == new
    roll_back(database, store, RECIPE, actor="anna", now=time.time())
    assert store.current(RECIPE).name == old

    record_decision(database, RECIPE, tmp_path / "new", decision, time.time(), "second")
    # As after a crash between the manifest and the database: the next start has nothing more to do.
    store.promote(RECIPE, new, instead_of=old)
    settle(database, store)
    roll_back(database, store, RECIPE, actor="anna", now=time.time())
    assert settle(database, store) == []
    assert store.current(RECIPE).name == old

    record_decision(database, RECIPE, tmp_path / "new", decision, time.time(), "third")
    settle(database, store)
    assert store.current(RECIPE).name == new
    with database.reading() as c:
        assert [row.applied for row in decisions(c, RECIPE)] == [True] * 3
