"""The scoring process scores what is missing, once, most useful first, and ends when nobody needs it any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from overread.domain import BadInputError, Grid
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import write_nifti
from overread.queue.backlog import KEPT_CHAMPIONS, ScoringProgress, StoppedError
from overread.queue.child import NICENESS
from overread.queue.claims import Claims
from overread.queue.features import LENGTH
from overread.queue.scorer import Scorer
from overread.queue.scoring_order import SPREAD, scoring_order
from overread.state.database import Database
from overread.state.scores import COLD, ScoreRow, put_score, scores_of
from support.servers import publish_threshold

pytestmark = pytest.mark.slow

RECIPE = "phantom"
ROOT = Path(__file__).parents[2]


class Workplace:
    """A folder with images, a champion, a database and the list of cases."""

    def __init__(self, folder: Path, cases: int) -> None:
        self.folder = folder
        self.cases = folder / "cases.json"
        self.progress = folder / "scoring" / "progress.json"
        self.champion = publish_threshold(folder / "app")
        self.database = Database.open(folder / "overread.db")
        self.images: dict[str, Path] = {}
        for n in range(cases):
            self.add(f"case{n}", n)
        self.write_cases()

    def add(self, case: str, seed: int, shape: tuple[int, int, int] = (20, 20, 12)) -> None:
        voxels = np.zeros(shape, np.float32)
        voxels[4:12, 4:12, 3:8] = 60 + np.random.default_rng(seed).uniform(-15, 60)
        self.images[case] = self.folder / f"{case}.nii.gz"
        write_nifti(self.images[case], voxels, Grid(shape, np.eye(4)))

    def write_cases(self) -> None:
        beside = self.cases.with_suffix(".new")
        beside.write_text(
            json.dumps({case: {"image": str(path), "patient": case} for case, path in self.images.items()})
        )
        beside.replace(self.cases)

    def command(self, champion: Path | None = None, *more: str) -> list[str]:
        named = [] if champion is None else ["--champion", str(champion)]
        return [
            *(sys.executable, "-m", "overread.queue.scorer", "--database", self.database.url),
            *("--recipe", RECIPE, "--cases", str(self.cases), "--threads", "1", *named, *more),
        ]

    @contextmanager
    def scorer(self, champion: Path | None = None, *more: str) -> Iterator[subprocess.Popen[str]]:
        environment = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(self.command(champion, *more), text=True, env=environment, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, champion: Path | None = None) -> list[ScoringProgress]:
        """What a scorer reports that comes to its end."""
        return list(self.in_this_process(champion, threading.Event()).run())

    def in_this_process(self, champion: Path | None, stopped: threading.Event) -> Scorer:
        claims = Claims.for_database(self.database.url)
        ensemble = None if champion is None else load_ensemble(champion)
        return Scorer(self.database, RECIPE, ensemble, self.cases, claims, stopped)

    def scores(self, champion: str | None = None) -> dict[str, ScoreRow]:
        with self.database.reading() as c:
            return scores_of(c, RECIPE, self.champion.name if champion is None else champion)


@pytest.fixture
def workplace(tmp_path):
    made = Workplace(tmp_path, cases=4)
    yield made
    made.database.close()


def test_scores_what_is_missing_once_and_again_only_what_changed(workplace):
    lines = workplace.run(workplace.champion)
    assert sorted(line.case for line in lines) == ["case0", "case1", "case2", "case3"]
    assert all(row.doubt is not None and row.error is None for row in workplace.scores().values())
    # Features are kept for champions to come.
    assert {len(row.features) for row in workplace.scores(COLD).values()} == {LENGTH}
    assert workplace.run(workplace.champion) == []

    # A new image, a replaced one, one that is damaged, one that is not there.
    workplace.add("case4", 4)
    workplace.add("case1", 77, shape=(22, 20, 12))
    workplace.images["case5"] = workplace.folder / "case5.nii.gz"
    workplace.images["case5"].write_bytes(b"no volume")
    workplace.images["case6"] = workplace.folder / "never.nii.gz"
    workplace.write_cases()
    lines = workplace.run(workplace.champion)
    assert sorted(line.case for line in lines) == ["case1", "case4", "case5", "case6"]
    errors = {case: row.error for case, row in workplace.scores().items() if row.error}
    assert set(errors) == {"case5", "case6"}
    assert "cannot be read" in errors["case5"]
    assert "does not exist" in errors["case6"]
    assert lines[-1].done == lines[-1].total == 7

    # Errors are not tried again until the file is another one.
    workplace.add("case5", 5)
    assert [line.case for line in workplace.run(workplace.champion)] == ["case5"]
    assert workplace.scores()["case5"].error is None


def test_without_a_champion_images_are_looked_at_and_a_champion_begins_with_images_far_apart(workplace):
    workplace.run()
    assert {row.doubt for row in workplace.scores(COLD).values()} == {None}
    assert len(workplace.scores(COLD)) == 4
    with workplace.database.reading() as c:
        order = scoring_order(c, RECIPE, "new", list(workplace.images))
    assert [line.case for line in workplace.run(workplace.champion)] == order


def test_everything_is_scored_anew_for_a_new_champion_and_only_the_last_three_are_remembered(workplace):
    champions = [
        publish_threshold(workplace.folder / f"app{n}", offsets=(0.0, float(n)))
        for n in range(1, KEPT_CHAMPIONS + 2)
    ]
    for champion in champions:
        assert len(workplace.run(champion)) == 4
    assert [len(workplace.scores(champion.name)) for champion in champions] == [0, 4, 4, 4]
    assert len(workplace.scores(COLD)) == 4


def test_cases_that_come_meanwhile_are_scored_as_well(workplace):
    reports = workplace.in_this_process(workplace.champion, threading.Event()).run()
    first = next(reports)
    workplace.add("case9", 9)
    workplace.write_cases()
    rest = list(reports)
    assert {first.case, *(line.case for line in rest)} == set(workplace.images)
    assert rest[-1].total == 5


def test_stops_within_a_case(workplace):
    stopped = threading.Event()
    reports = workplace.in_this_process(workplace.champion, stopped).run()
    next(reports)
    stopped.set()
    with pytest.raises(StoppedError):
        next(reports)
    assert len(workplace.scores()) == 1


def test_reports_each_case_as_a_line_of_json_and_gives_way_to_others(workplace):
    with workplace.scorer(workplace.champion, "--progress", str(workplace.progress)) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline())]
        # Field 19 is the nice value; the second one is the name in brackets.
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        lines += [json.loads(line) for line in process.stdout]
        assert process.wait() == 0
    assert int(stat.rpartition(")")[2].split()[16]) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    assert [(line["done"], line["total"], line["error"]) for line in lines] == [
        (n, 4, None) for n in range(1, 5)
    ]
    assert lines[-1]["seconds_left"] == 0
    assert (lines[-1]["recipe"], lines[-1]["champion"]) == (RECIPE, workplace.champion.name)
    assert json.loads(workplace.progress.read_text()) == lines[-1]


def test_two_scorers_do_not_score_a_case_twice(tmp_path):
    workplace = Workplace(tmp_path, cases=12)
    with workplace.scorer(workplace.champion) as one, workplace.scorer(workplace.champion) as other:
        cases = []
        for process in (one, other):
            assert process.stdout is not None
            cases += [json.loads(line)["case"] for line in process.stdout]
            assert process.wait() == 0
    assert sorted(cases) == sorted(workplace.images)
    workplace.database.close()


def test_ends_when_its_standard_input_closes(tmp_path):
    workplace = Workplace(tmp_path, cases=1)
    for n in range(1, 4):
        workplace.add(f"case{n}", n, shape=(160, 160, 160))
    workplace.write_cases()
    with workplace.scorer(workplace.champion) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert len(workplace.scores()) < 4
    workplace.database.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("[]", "is no list of cases"),
        ('{"a": {}}', r"KeyError\('image'\)"),
        ("{", "is no list of cases"),
    ],
)
def test_a_damaged_list_of_cases_is_refused(workplace, content, message):
    workplace.cases.unlink()
    if content is not None:
        workplace.cases.write_text(content)
    with pytest.raises(BadInputError, match=message):
        workplace.run()


def test_what_cannot_be_used_ends_it_with_a_sentence(workplace):
    workplace.cases.write_text("[]")
    with workplace.scorer() as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "cases.json is no list of cases" in errors
    assert "Traceback" not in errors


def row(
    case: str, champion: str, doubt: float | None, at: float, features: tuple[float, ...] = ()
) -> ScoreRow:
    return ScoreRow(RECIPE, champion, case, "1", doubt, None, {}, {}, features, 0.0, None, at)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "overread.db")
    yield opened
    opened.close()


def test_what_the_champion_before_doubted_most_is_scored_first(database):
    with database.writing() as c:
        for case, doubt in {"a": 0.1, "b": 0.9, "c": 0.5}.items():
            put_score(c, row(case, "before", doubt, at=2.0))
            put_score(c, row(case, "long ago", 1 - doubt, at=1.0))
        put_score(c, row("c", "now", 0.0, at=3.0))
        order = scoring_order(c, RECIPE, "now", ["new", "a", "b", "c"])
    assert order == ["b", "c", "a", "new"]


def test_images_far_apart_come_before_more_of_the_same(database):
    with database.writing() as c:
        for n in range(40):
            put_score(c, row(f"alike{n}", COLD, None, 1.0, (0.01 * n, 0.0)))
        for n, place in enumerate([(50.0, 0.0), (0.0, 50.0), (-50.0, 0.0)]):
            put_score(c, row(f"far{n}", COLD, None, 1.0, place))
        order = scoring_order(
            c, RECIPE, "new", [f"alike{n}" for n in range(40)] + ["far0", "far1", "far2", "unseen"]
        )
    assert set(order[1:4]) == {"far0", "far1", "far2"}
    assert order[-1] == "unseen"
    assert len(order) == 44 < SPREAD


def test_where_nothing_is_known_the_order_has_nothing_to_do_with_names(database):
    names = [f"case{n:03d}" for n in range(100)]
    with database.reading() as c:
        order = scoring_order(c, RECIPE, "new", names)
    assert sorted(order) == names
    assert np.corrcoef([names.index(case) for case in order], np.arange(100))[0, 1] < 0.5


def test_a_claim_ends_with_the_process_that_holds_it(tmp_path):
    file = tmp_path / "some.claims"
    code = (
        "import sys, time; from pathlib import Path; from overread.queue.claims import Claims\n"
        f"with Claims(Path({str(file)!r})).claim('a', 'case1') as mine:\n"
        "    print(mine, flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        claims = Claims(file)
        with claims.claim("a", "case1") as mine:
            assert not mine
        with claims.claim("a", "case2") as mine:
            assert mine
        other.kill()
        other.wait()
        deadline = time.monotonic() + 10
        free = False
        while not free and time.monotonic() < deadline:
            with claims.claim("a", "case1") as free:
                pass
    assert free


def test_claims_lie_beside_a_file_and_elsewhere_for_a_server(tmp_path):
    beside = Claims.for_database(f"sqlite:///{tmp_path / 'o.db'}")
    with beside.claim("x") as mine:
        assert mine
    assert (tmp_path / "o.db.claims").exists()
    away = Claims.for_database("postgresql+psycopg://someone:secret@localhost/overread")
    assert "secret" not in str(away.file)
