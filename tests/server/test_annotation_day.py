"""A day of two readers on real hippocampi: they ask, correct, submit and train at the same time, and nothing is lost.

In the morning each labels some cases. Then one of them presses Train, and both go on. The challenger learns from what
they submitted, passes the gate and is served by the same process; waiting cases are scored anew, and the evening's
proposals are the new champion's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from sqlalchemy import Connection

from overread.ensemble.storage import load_ensemble, read_description
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.champions import ChampionStore
from overread.learning.training_set import patient_key
from overread.state import audit
from overread.state.database import Database, default_path
from overread.state.labels import LabelRow, labels
from overread.state.scores import scores_of
from overread.state.servings import CONTROL, SKIPPED, STRATEGY, SUBMITTED, Serving, servings
from support.hippocampus import HIPPOCAMPI, RECIPE, publish_beginner, real_cases
from support.servers import app_copy, running_server
from support.slicer import write_segments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not HIPPOCAMPI.exists(), reason=f"the hippocampus cases are not there: {HIPPOCAMPI}"),
]

CENTRAL, WAITING = 10, 18
MORNING, AFTERNOON, EVENING = 4, 2, 1
NAMES = ("anterior", "posterior")
FORCED = {"result_extension": ".nrrd", "result_dtype": "uint8"}
# One case of four is drawn by chance: two in the morning.
CONF = ["control_share", "0.25", "train_iterations", "60", "precision", "full", "threads", "1"]


@dataclass(frozen=True)
class Submitted:
    """A label that the server answered with 200."""

    case: str
    rater: str
    label: np.ndarray
    accepted: dict[str, Any]
    proposed_by: str


@dataclass
class Reader:
    """Someone at 3D Slicer: the client's calls in the module's order. Corrects every case to the truth.

    Attributes:
        exports: writes the label as the viewer does.
        answers: what was served to them, with the times between which they held it.
        submitted: what was accepted from them.
    """

    name: str
    url: str
    folder: Path
    truth: dict[str, Path]
    exports: Callable[[Path, np.ndarray, Any], Path]
    answers: list[dict[str, Any]] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.client = MONAILabelClient(self.url, str(self.folder), self.name)

    def ask(self) -> dict[str, Any]:
        """Press Next Sample, and get the image."""
        asked = time.time()
        if self.answers:
            self.answers[-1].setdefault("until", asked)
        answer = self.client.next_sample("most_uncertain", {})
        assert answer, "no case was left to serve"
        self.answers.append(answer | {"since": time.time()})
        image = requests.get(f"{self.url}/datastore/image", params={"image": answer["id"]}, timeout=60)
        assert image.content == Path(answer["path"]).read_bytes()
        return self.answers[-1]

    def infer(self) -> str:
        """Press Run on the case in hand; the champion that answered."""
        file, facts = self.client.infer(RECIPE, self.answers[-1]["id"], dict(FORCED))
        shown = read_labelmap(Path(file))[0]
        assert shown.shape == read_labelmap(self.truth[self.answers[-1]["id"]])[0].shape
        return facts["champion"]

    def submit(self, proposed_by: str) -> None:
        """Correct the segments and press Submit Label."""
        case = self.answers[-1]["id"]
        label, grid = read_labelmap(self.truth[case])
        file = self.exports(self.folder / "label", label, grid)
        info = {"label_info": [{"name": name, "idx": index} for index, name in enumerate(NAMES, 1)]}
        self.answers[-1]["until"] = time.time()
        answer = self.client.save_label(case, str(file), params=info)
        self.submitted.append(Submitted(case, self.name, label, answer["accepted"], proposed_by))

    def work(self, cases: int) -> None:
        """Ask, infer, correct, submit."""
        for _ in range(cases):
            self.ask()
            self.submit(self.infer())


def as_nifti(path: Path, label: np.ndarray, grid: Any) -> Path:
    """3D Slicer's default: values count the segments in the order of `label_info`."""
    file = path.with_suffix(".nii.gz")
    write_nifti(file, label.astype(np.uint8), grid)
    return file


def as_segmentation(path: Path, label: np.ndarray, grid: Any) -> Path:
    """`.seg.nrrd`, whose header names the segments; the values are another reader's habit."""
    values = np.array([0, 7, 3], np.uint8)[label]
    segments = [(NAMES[0], 0, 7), (NAMES[1], 0, 3)]
    return write_segments(path.with_suffix(".seg.nrrd"), [values], segments, grid)


@dataclass(frozen=True)
class Day:
    """What was seen of a day, and the folders that are left of it.

    Attributes:
        trained_on: cases that had a label when Train was pressed.
        while_training: labels that were submitted while the trainer ran.
        before, after: `/info/` in the morning and in the evening.
        rescored: cases that waited in the evening.
    """

    app_dir: Path
    studies: Path
    readers: tuple[Reader, Reader]
    trained_on: frozenset[str]
    while_training: int
    before: dict[str, Any]
    after: dict[str, Any]
    rescored: frozenset[str]

    @property
    def submitted(self) -> list[Submitted]:
        return [label for reader in self.readers for label in reader.submitted]

    @property
    def champions(self) -> tuple[str, str]:
        """In the morning and in the evening."""
        return self.before["models"][RECIPE]["champion"], self.after["models"][RECIPE]["champion"]

    def rows(self) -> list[LabelRow]:
        with self.reading() as c:
            return labels(c)

    def served(self) -> list[Serving]:
        with self.reading() as c:
            return servings(c)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        database = Database.open(default_path(self.app_dir))
        try:
            with database.reading() as c:
                yield c
        finally:
            database.close()


def eventually(found: Callable[[], Any], what: str) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen")


def both(readers: tuple[Reader, Reader], work: Callable[[Reader], Any]) -> list[Any]:
    """Two people at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(work, reader) for reader in readers]]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Play the day; everything that must hold in the meantime is asserted here."""
    base = tmp_path_factory.mktemp("day")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_beginner(app_dir / "model", real_cases(0, CENTRAL), base / "work")
    cases = real_cases(CENTRAL, CENTRAL + WAITING)
    for case in cases:
        shutil.copyfile(case.channels[0], studies / f"{case.id}.nii.gz")
    truth = {case.id: case.label for case in cases}
    with running_server(app_dir, studies, CONF) as url:
        yield play(app_dir, studies, url, truth, base)


def scored_by(reader: Reader, champion: str) -> dict[str, Any] | None:
    """`/info/`, once this champion has scored every case."""
    info = reader.client.info()
    queue = info["queue"]
    return info if queue["champion"] == champion and queue["scored"] == queue["total"] else None


def play(app_dir: Path, studies: Path, url: str, truth: dict[str, Path], base: Path) -> Day:
    """The day itself."""
    anna = Reader("anna", url, base / "anna", truth, as_nifti)
    berta = Reader("berta", url, base / "berta", truth, as_segmentation)
    readers = (anna, berta)
    before = anna.client.info()
    old = before["models"][RECIPE]["champion"]
    eventually(lambda: scored_by(anna, old), "scoring in the morning")

    both(readers, lambda reader: reader.work(MORNING))
    trained_on = frozenset(label.case for reader in readers for label in reader.submitted)

    task = anna.client.train_start(RECIPE, {})
    assert task["status"] in ("SUBMITTED", "RUNNING")
    running = anna.client.train_status

    def afternoon(reader: Reader) -> int:
        during = 0
        for _ in range(AFTERNOON):
            reader.work(1)
            during += running(check_if_running=True)
        reader.ask()
        while running(check_if_running=True):
            reader.infer()
            time.sleep(1)
        return during

    while_training = sum(both(readers, afternoon))
    over = anna.client.train_status()
    assert (over["id"], over["status"]) == (task["id"], "DONE"), over
    decision = eventually(lambda: anna.client.info()["train_stats"][RECIPE]["decision"], "the decision")
    assert decision["promoted"], decision["reason"]
    new = decision["challenger"]
    assert new != old
    # The same process answers with the new champion.
    assert both(readers, lambda reader: reader.infer()) == [new, new]

    after = eventually(lambda: scored_by(anna, new), "scoring with the new champion")
    labelled = {label.case for reader in readers for label in reader.submitted}
    waiting = frozenset(truth) - labelled
    both(readers, lambda reader: reader.submit(new))
    both(readers, lambda reader: reader.work(EVENING))
    return Day(app_dir, studies, readers, trained_on, while_training, before, after, waiting)


def test_no_case_is_in_two_hands(day):
    held = [
        (answer["since"], answer["until"], answer["id"])
        for reader in day.readers
        for answer in reader.answers
    ]
    assert len(held) == 2 * (MORNING + AFTERNOON + 1 + EVENING)
    # Whoever submits frees a case for nobody: it is labelled. Nothing was skipped, so each was served once.
    assert len({case for _, _, case in held}) == len(held)
    rows = day.served()
    assert [serving.outcome for serving in rows] == [SUBMITTED] * len(held)
    assert {(s.client_id, s.case_id) for s in rows} == {
        (reader.name, answer["id"]) for reader in day.readers for answer in reader.answers
    }


def test_every_case_came_with_its_reason(day):
    served = {serving.case_id: serving for serving in day.served()}
    for reader in day.readers:
        for answer in reader.answers:
            serving = served[answer["id"]]
            assert serving.reason
            assert serving.reason in answer["PatientID"]
            assert answer["id"] in answer["PatientID"]
            assert ("control: " in answer["PatientID"]) == (serving.arm == CONTROL)


def test_both_went_on_submitting_while_the_trainer_ran(day):
    assert day.while_training == 2 * AFTERNOON


def test_nothing_is_lost(day):
    rows = {row.id: row for row in day.rows()}
    assert len(rows) == len(day.submitted) == 2 * (MORNING + AFTERNOON + 1 + EVENING)
    index = json.loads((day.studies / "datastore_v2.json").read_text())["objects"]
    for label in day.submitted:
        row = rows[label.accepted["id"]]
        assert (row.case_id, row.rater, row.client_id) == (label.case, label.rater, label.rater)
        assert (row.champion, row.recipe) == (label.proposed_by, RECIPE)
        kept = day.studies / "accepted" / row.file
        assert sha256(kept.read_bytes()).hexdigest() == row.sha256
        for file in (kept, day.studies / "labels" / "final" / f"{label.case}.nii.gz"):
            np.testing.assert_array_equal(read_labelmap(file)[0], label.label)
        assert index[label.case]["labels"]["final"]["info"]["client_id"] == label.rater
        assert row.took_s > 0
        assert 0 <= row.dice_to_proposal < 1


def test_the_audit_log_tells_the_whole_day(day):
    with day.reading() as c:
        assert audit.verify(c) == []
        actions = [row.action for row in audit.rows(c)]
    told = {action: actions.count(action) for action in set(actions)}
    count = len(day.submitted)
    assert told["case served"] == told["label accepted"] == count
    assert told["training started"] == told["gate decided"] == told["champion promoted"] == 1
    assert SKIPPED not in " ".join(told)


def test_the_server_serves_what_the_gate_promoted(day):
    old, new = day.champions
    assert old != new
    store = ChampionStore(day.app_dir / "model")
    assert store.current(RECIPE).name == new
    assert [term.champion for term in store.history(RECIPE)] == [old, new]
    assert load_ensemble(store.current(RECIPE)).identity.startswith(new)
    decision = day.after["train_stats"][RECIPE]["decision"]["report"]
    assert decision["local"]["low"] > 0
    assert decision["central"]["low"] > 0
    assert {label.proposed_by for label in day.submitted} == {old, new}


def test_waiting_cases_were_scored_by_the_new_champion(day):
    old, new = day.champions
    with day.reading() as c:
        first, second = scores_of(c, RECIPE, old), scores_of(c, RECIPE, new)
    assert day.rescored <= second.keys()
    assert all(row.error is None and row.doubt is not None for row in second.values())
    assert day.rescored <= first.keys()
    assert any(second[case].doubt != first[case].doubt for case in day.rescored)
    # What was served in the evening was chosen by these scores.
    for reader in day.readers:
        assert reader.answers[-1]["champion"] == new
        assert reader.answers[-1]["scored"] == reader.answers[-1]["total"]


def test_what_chance_drew_was_kept_from_training(day):
    arms = {serving.case_id: serving.arm for serving in day.served()}
    drawn = {case for case, arm in arms.items() if arm == CONTROL}
    assert len(drawn & day.trained_on) == 2 * MORNING / 4
    challenger = read_description(ChampionStore(day.app_dir / "model").current(RECIPE))
    learnt = {key for member in challenger["plan"]["learnt"] for key in member}
    # Each hippocampus is a patient of its own.
    assert not learnt & {patient_key(case) for case in drawn}
    # The trainer may have begun a moment after the click, with some labels of the afternoon.
    assert learnt >= {patient_key(case) for case in day.trained_on - drawn}
    assert learnt <= {patient_key(case) for case in arms.keys() - drawn}
    assert {row.case_id for row in day.rows() if row.protected} == drawn
    assert set(arms.values()) == {CONTROL, STRATEGY}
