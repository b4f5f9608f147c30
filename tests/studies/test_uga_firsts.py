"""A first model that several protocols share is trained once, and each study has a copy of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from overread.learning.central import read_central
from overread.studies.uga import bench as benches
from overread.studies.uga.firsts import AFTERWARDS
from overread.studies.uga.protocol import Protocol
from overread.studies.uga.study import Job, run_study, study_folder, units_of
from support.tiny_study import PROTOCOL, discs, job

pytestmark = pytest.mark.slow


class TrainedError(Exception):
    """Something was trained."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a first model."""
    assert discs.name == "discs"
    folder = tmp_path_factory.mktemp("firsts")
    run_study(job(folder, ("none",)))
    return folder


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TrainedError

    monkeypatch.setattr(benches, "train_ensemble", refuse)


def seed_of(study: Job) -> Path:
    return study_folder(study, "discs", 2) / "seed_0"


def unit(study: Job) -> dict[str, Any]:
    return json.loads((seed_of(study) / "none" / "unit.json").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {"rate_factor": 0.1},
        {"peaks": 8.0, "budgets": (1, 3)},
        {"queue": "patches", "replay_share": 0.7, "hed": 0.3},
        {"share": 100.0, "begin": "scratch", "by_place": True, "beside": True},
    ],
)
def test_what_comes_after_it_does_not_train_it_again(done: Path, untrained: None, changes: dict[str, Any]):
    first, other = job(done, ("none",)), job(done, ("none",), **changes)
    assert seed_of(first) != seed_of(other)
    run_study(other)
    assert unit(other) == unit(first)
    (bench,) = (one.bench for one in units_of(other))
    assert bench.store.current("study").is_relative_to(seed_of(other))
    ensemble = bench.load(bench.store.current("study"))
    (before,) = (one.bench for one in units_of(first))
    assert ensemble.identity == before.load(before.store.current("study")).identity
    # Nothing is read from the other study: it may be deleted.
    central = read_central(bench.store.recipe_folder("study"))
    assert central.folder == bench.central.resolve()
    assert {path.name for path in central.folder.rglob("*.png")} == {
        path.name for path in before.central.rglob("*.png")
    }
    for case in bench.pool:
        assert bench.first_maps(case).known.any()


@pytest.mark.parametrize(
    "changes", [{"stain": 0.2}, {"members": 3}, {"starter_iterations": 7}, {"step": 0.5}]
)
def test_what_it_depends_on_does(done: Path, untrained: None, changes: dict[str, Any]):
    with pytest.raises(TrainedError):
        run_study(job(done, ("none",), **changes))


def test_another_division_or_seed_has_its_own(done: Path, tmp_path: Path, untrained: None):
    with pytest.raises(TrainedError):
        run_study(replace(job(done, ("none",), rate_factor=0.2), seeds=(1,)))
    # As where another place is the first one.
    shutil.copytree(done, tmp_path / "work")
    study = job(tmp_path / "work", ("none",), rate_factor=0.2)
    for path in seed_of(study).parent.parent.glob("*/seed_0/division.json"):
        division = json.loads(path.read_text())
        path.write_text(json.dumps({**division, "train": division["train"][:1]}))
    with pytest.raises(TrainedError):
        run_study(study)


def test_what_is_not_finished_is_not_taken(done: Path, tmp_path: Path, untrained: None):
    shutil.copytree(done, tmp_path / "work")
    first = job(tmp_path / "work", ("none",))
    for other in seed_of(first).parent.parent.glob("*/seed_0/none/unit.json"):
        other.unlink()
    with pytest.raises(TrainedError):
        run_study(job(tmp_path / "work", ("none",), rate_factor=0.3))


def test_a_copy_that_was_stopped_begins_anew(done: Path, untrained: None, monkeypatch: pytest.MonkeyPatch):
    study = job(done, ("none",), rate_factor=0.4)
    with monkeypatch.context() as stopping:
        stopping.setattr("overread.studies.uga.firsts.write_central", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_study(study)
    assert not (seed_of(study) / "none" / "unit.json").exists()
    (seed_of(study) / "maps" / "left_over.npz").touch()
    run_study(study)
    assert unit(study) == unit(job(done, ("none",)))
    assert not (seed_of(study) / "maps" / "left_over.npz").exists()


def test_every_field_that_may_change_afterwards_is_one_of_the_protocol():
    assert {*AFTERWARDS} <= {each.name for each in fields(Protocol)}
    assert PROTOCOL.changed({"rate_factor": 0.1}).key() != PROTOCOL.key()
