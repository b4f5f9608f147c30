"""A turn of the loop ends in a decision that manifest and database agree on, wherever it was killed before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overread.domain import BadInputError
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.training import StoppedError
from overread.learning.cycle import CycleProgress, run_cycle
from overread.learning.gate import Decision, GateOptions
from overread.learning.options import RetrainingOptions
from overread.learning.process import BROKEN, BUSY, DECIDED, INTERRUPTED, Request, images_below, main, run
from overread.state import audit
from overread.state.decisions import DecisionRow, decisions
from overread.state.models import ModelRow, models
from support.loop import GOOD, RECIPE, Place, publish_champion, write_central

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion store with one champion of the central data."""
    folder = tmp_path_factory.mktemp("trained")
    publish_champion(folder / "model", write_central(folder / "central"), folder / "work")
    return folder / "model"


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Place:
    return Place.found(tmp_path, trained)


def turn(
    place: Place,
    progress: list[CycleProgress] | None = None,
    stop_at: str = "",
    request: str = "",
    training: RetrainingOptions = GOOD,
) -> Decision:
    """One cycle; `stop_at` names the stage in which somebody asks to stop."""
    database, accepted = place.open()
    stop = threading.Event()

    def heard(now: CycleProgress) -> None:
        if progress is not None:
            progress.append(now)
        if now.stage == stop_at:
            stop.set()

    try:
        return run_cycle(
            RECIPE, place.store, accepted, database, place.work, training, GateOptions(), place.image_of,
            progress=heard, stop=stop, request=request,
        )  # fmt: skip
    finally:
        database.close()


def memory(place: Place) -> tuple[list[DecisionRow], list[ModelRow], list[str]]:
    """Decisions, models and audited actions; the log's chain holds."""
    database, _ = place.open()
    with database.reading() as c:
        assert audit.verify(c) == []
        found = decisions(c), models(c), [row.action for row in audit.rows(c)]
    database.close()
    return found


def agrees(place: Place, before: str, challenger: str) -> None:
    """The challenger is in service, and everything says so exactly once."""
    assert place.store.current(RECIPE).name == challenger
    assert [term.champion for term in place.store.history(RECIPE)] == [before, challenger]
    rows, versions, actions = memory(place)
    assert [(row.challenger, row.promoted, row.applied) for row in rows] == [(challenger, True, True)]
    assert {row.identity: row.status for row in versions} == {before: "retired", challenger: "champion"}
    assert actions.count("gate decided") == actions.count("champion promoted") == 1


def test_accepted_labels_lead_to_another_champion(place: Place):
    before = place.store.current(RECIPE).name
    place.accept(5)
    told: list[CycleProgress] = []
    decision = turn(place, told)
    assert decision.promoted, decision.reason
    agrees(place, before, decision.challenger)
    assert [version.parent for version in place.store.versions(RECIPE)] == ["", before]
    assert list(dict.fromkeys(now.stage for now in told)) == [
        *("checking", "preparing", "training", "calibrating", "judging")
    ]
    epochs = [now.epoch for now in told]
    assert epochs == sorted(epochs)
    assert {now.total_epochs for now in told} == {100}
    # Prepared cases wait for the next cycle; weights and answers do not.
    assert {path.name for path in place.work.iterdir()} == {"cycle.json", "retraining"}
    assert [path.name for path in (place.work / "retraining").iterdir()] == ["cases"]
    challenger = read_description(place.store.current(RECIPE))
    assert len(challenger["data"]["local"]) == 5
    assert challenger["calibration"]["bands"]


def test_too_few_labels_are_refused_before_anything_is_trained(place: Place):
    place.accept(2)
    with pytest.raises(
        BadInputError,
        match="ball is not trained: there are accepted labels of 2 patients, the gate needs 3: 1 more",
    ):
        turn(place)
    assert not (place.work / "retraining").exists()
    assert memory(place)[0] == []


def test_a_rejected_challenger_is_remembered_and_not_kept(place: Place):
    before = place.store.current(RECIPE).name
    place.accept(3)
    # One timid step teaches nothing.
    decision = turn(place, training=replace(GOOD, iterations=1, rate_factor=1e-6))
    assert not decision.promoted
    assert place.store.current(RECIPE).name == before
    assert [version.identity for version in place.store.versions(RECIPE)] == [before]
    rows, versions, actions = memory(place)
    assert [(row.promoted, row.applied, row.reason) for row in rows] == [(False, True, decision.reason)]
    rejected = next(row for row in versions if row.status == "rejected")
    assert rejected.manifest["parent"][:12] == before
    assert "champion promoted" not in actions


@pytest.mark.parametrize("stage", ["training", "judging"])
def test_a_cycle_that_was_stopped_goes_on_with_the_labels_it_had(place: Place, stage: str):
    before = place.store.current(RECIPE).name
    place.accept(3)
    with pytest.raises(StoppedError):
        turn(place, stop_at=stage)
    cycle = json.loads((place.work / "cycle.json").read_text())["id"]
    place.accept(1, first=3, seed=7)
    decision = turn(place)
    assert decision.promoted, decision.reason
    assert json.loads((place.work / "cycle.json").read_text())["id"] == cycle
    assert len(read_description(place.store.current(RECIPE))["data"]["local"]) == 3
    agrees(place, before, decision.challenger)


def test_a_cycle_that_was_decided_for_a_request_is_not_run_again_for_it(place: Place):
    place.accept(3)
    first = turn(place, request="7f")
    told: list[CycleProgress] = []
    assert turn(place, told, request="7f") == first
    assert told == []


def test_an_interrupted_cycle_is_given_up_when_a_label_is_withdrawn(place: Place):
    place.accept(4)
    with pytest.raises(StoppedError):
        turn(place, stop_at="training")
    database, accepted = place.open()
    accepted.withdraw("study_01", None, "ada", "wrong patient", 2000.0)
    database.close()
    turn(place)
    challenger = json.loads((place.work / "cycle.json").read_text())
    assert [case["id"] for case in challenger["cases"]] == ["study_00", "study_02", "study_03"]


def test_a_champion_that_was_published_meanwhile_stays(place: Place):
    place.accept(3)
    other = place.folder / "other"
    shutil.copytree(place.store.current(RECIPE), other)
    write_description(other, {**read_description(other), "name": "another"})
    database, accepted = place.open()
    published: list[str] = []

    def publish(now: CycleProgress) -> None:
        if now.stage == "judging" and not published:
            published.append(place.store.publish(RECIPE, other).name)

    decision = run_cycle(
        RECIPE, place.store, accepted, database, place.work, GOOD, GateOptions(), place.image_of, progress=publish
    )  # fmt: skip
    database.close()
    assert not decision.promoted
    assert f"because {published[0]} took the place of champion" in decision.reason
    assert place.store.current(RECIPE).name == published[0]


# Makes one process per step that dies, as by kill -9, just before that step; tells how each ended.
DIES = """
import os, sys
from pathlib import Path
import overread.learning.cycle as cycle
import overread.learning.versions as versions
import overread.learning.champions as champions
from support.loop import GOOD, RECIPE, Place
from overread.learning.gate import GateOptions

STEPS = {"add": (champions.ChampionStore, "add"), "decide": (cycle, "record_decision"),
         "promote": (champions.ChampionStore, "promote"), "apply": (versions, "mark_applied"),
         "clean": (cycle, "_clean")}
for step, (module, name) in STEPS.items():
    child = os.fork()
    if child == 0:
        setattr(module, name, lambda *_, **__: os.kill(os.getpid(), 9))
        place = Place(Path(sys.argv[1]) / step)
        database, accepted = place.open()
        cycle.run_cycle(
            RECIPE, place.store, accepted, database, place.work, GOOD, GateOptions(), place.image_of, request="x"
        )
        os._exit(0)
    print(step, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


def test_a_kill_between_decision_and_promotion_is_mended_by_the_next_start(trained: Path, tmp_path: Path):
    judged = Place.found(tmp_path / "judged", trained)
    judged.accept(3)
    with pytest.raises(StoppedError):
        turn(judged, stop_at="judging", request="x")
    before = judged.store.current(RECIPE).name
    steps = ("add", "decide", "promote", "apply", "clean")
    for step in steps:
        shutil.copytree(judged.folder, tmp_path / step)
        cycle = tmp_path / step / "training" / RECIPE / "cycle.json"
        cycle.write_text(cycle.read_text().replace(str(judged.folder), str(tmp_path / step)))
    told = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert told.stdout.splitlines() == [f"{step} {signal.SIGKILL}" for step in steps], told.stderr
    for step in steps:
        place = Place(tmp_path / step)
        # Whatever was half done, a whole champion is in service.
        in_service = place.store.current(RECIPE)
        assert (in_service.name == before) == (step in ("add", "decide", "promote")), step
        assert len(load_ensemble(in_service).members) == 2
        decision = turn(place, request="x")
        agrees(place, before, decision.challenger)
        # Once more changes nothing.
        assert turn(place, request="x") == decision
        agrees(place, before, decision.challenger)


def start(place: Place) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "overread.learning.process",
        "--request",
        str(place.work / "request.json"),
    ]
    with (place.folder / "process.log").open("ab") as log:
        return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=log)


def progress_of(place: Place) -> dict:
    path = place.work / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {}


def until(place: Place, process: subprocess.Popen[bytes], stage: str) -> None:
    """Wait until this process tells that it has come to a stage."""
    while (progress_of(place).get("pid"), progress_of(place).get("stage")) != (process.pid, stage):
        assert process.poll() is None, (place.folder / "process.log").read_text()
        time.sleep(0.02)


def test_a_process_that_is_killed_is_carried_on_to_its_decision(place: Place):
    before = place.store.current(RECIPE).name
    place.accept(3)
    request = place.request(iterations=60)
    with start(place) as killed:
        until(place, killed, "training")
        assert run(request, threading.Event()) == BUSY
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert progress_of(place)["state"] == "running"
    assert request.exists()

    assert run(request, threading.Event()) == DECIDED
    told = progress_of(place)
    assert (told["state"], told["epoch"], told["share"]) == ("promoted", 100, 1.0)
    assert told["best_metric"] == told["decision"]["local"]["mean_after"] > 0.5
    assert told["message"].startswith("promoted: local Dice")
    assert not request.exists()
    agrees(place, before, told["decision"]["challenger"])


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Gives the process's main function a standard input, and a way to close its other end; mends the signals."""
    reading, writing = os.pipe()
    ends = [writing]
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda: os.close(ends.pop())
        for end in ends:
            os.close(end)
        for number, handler in signals.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("end", ["SIGTERM", "the parent dies"])
def test_the_process_ends_at_its_next_step_and_keeps_the_request(
    place: Place, parent: Callable[[], None], end: str
):
    place.accept(3)
    # More than anybody could wait for.
    request = place.request(iterations=10_000_000)

    def end_it() -> None:
        while progress_of(place).get("stage") != "training":
            time.sleep(0.02)
        if end == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            parent()

    waiting = threading.Thread(target=end_it)
    waiting.start()
    assert main(["--request", str(request)]) == INTERRUPTED
    waiting.join()
    assert progress_of(place)["state"] == "stopped"
    assert request.exists()


def test_the_process_says_why_it_failed_and_forgets_the_request(place: Place):
    place.accept(1)
    request = place.request()
    assert run(request, threading.Event()) == BROKEN
    told = progress_of(place)
    assert (told["state"], told["decision"]) == ("failed", None)
    assert "the gate needs 3: 2 more" in told["message"]
    assert not request.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no object"),
        ('{"recipe": "a", "models": "m"}', "lacks studies, database"),
    ],
)
def test_a_request_that_cannot_be_meant_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "request.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message):
        Request.read(path)


def test_a_request_reads_options_that_stand_beside_the_rest_and_skips_empty_ones(place: Place):
    request = Request.read(place.request(minutes=None, start="scratch", gate={"draws": 10}, by="ada"))
    assert request.retraining["start"] == "scratch"
    assert "minutes" not in request.retraining
    assert (request.gate, request.consensus, request.id) == ({"draws": 10}, "latest", "first")


def test_images_are_found_by_their_name_without_its_ending(tmp_path: Path):
    for name in ("a.nii.gz", "b.nrrd", ".hidden.nii.gz", "notes.txt", "datastore_v2.json"):
        (tmp_path / name).touch()
    assert images_below(tmp_path) == {"a": tmp_path / "a.nii.gz", "b": tmp_path / "b.nrrd"}
