"""Slides are looked at in the background, once, most useful first, and a look that was interrupted goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import open_slide
from overread.queue.backlog import ScoringProgress, StoppedError
from overread.queue.claims import Claims
from overread.queue.patches.files import SlideFiles, slide_folder
from overread.queue.patches.looking import CloseLook
from overread.queue.patches.scorer import SlideScorer
from overread.queue.scoring import revision_of
from overread.state.database import Database
from overread.state.scores import ScoreRow, scores_of
from support.slides import red_cuts, slide_of

RECIPE = "metastases"
ROOT = Path(__file__).parents[3]
PURPLE = (150, 60, 140)


def stained(seed: int, rows: int = 512, columns: int = 384) -> np.ndarray:
    """White glass with a block of purple tissue in it, its red channel uneven."""
    rng = np.random.default_rng(seed)
    picture = np.full((rows, columns, 3), 245, np.uint8)
    tissue = picture[64 : rows - 64, 64 : columns - 64]
    tissue[:] = PURPLE
    blocks = rng.integers(90, 170, (tissue.shape[0] // 32 + 1, tissue.shape[1] // 32 + 1))
    tissue[..., 0] = np.kron(blocks, np.ones((32, 32)))[: tissue.shape[0], : tissue.shape[1]]
    return picture


class Workplace:
    """A folder with slides, a champion, a database and the list of slides."""

    def __init__(self, folder: Path, slides: int, rows: int = 512) -> None:
        self.folder, self.cases, self.maps = folder, folder / "slides.json", folder / "maps"
        # Three members that put the border of tumour elsewhere.
        red_cuts(folder / "champion", (130,), (0, 6, -6), patch=(64, 64), sharpness=0.2)
        self.database = Database.open(folder / "overread.db")
        self.wanted: dict[str, float] = {}
        self.images: dict[str, Path] = {}
        for n in range(slides):
            self.images[f"slide{n}"] = folder / f"slide{n}.tif"
            slide_of(self.images[f"slide{n}"], stained(n, rows)).close()
        self.list()

    def list(self) -> None:
        beside = self.cases.with_suffix(".new")
        said = {
            slide: {"image": str(path), "patient": slide, "wanted": self.wanted.get(slide, 0)}
            for slide, path in self.images.items()
        }
        beside.write_text(json.dumps(said))
        beside.replace(self.cases)

    def scorer(self, stopped: threading.Event | None = None, keep_every_s: float = 30.0) -> SlideScorer:
        return SlideScorer(
            self.database,
            RECIPE,
            load_ensemble(self.folder / "champion"),
            self.cases,
            self.maps,
            Claims.for_database(self.database.url),
            stopped or threading.Event(),
            options=SlideOptions(batch=4, workers=1),
            keep_every_s=keep_every_s,
        )

    def run(self) -> list[ScoringProgress]:
        return list(self.scorer().run())

    def scores(self) -> dict[str, ScoreRow]:
        with self.database.reading() as c:
            return scores_of(c, RECIPE, self.scorer().champion)

    def files(self, slide: str) -> SlideFiles:
        return SlideFiles(slide_folder(self.maps, RECIPE, self.scorer().champion, slide))


@pytest.fixture
def place(tmp_path):
    made = Workplace(tmp_path, slides=2)
    yield made
    made.database.close()


def assert_alike(one: SlideMaps, other: SlideMaps) -> None:
    np.testing.assert_array_equal(one.known, other.known)
    for name, field in one.maps.items():
        np.testing.assert_allclose(field[one.known], other.maps[name][one.known], atol=2e-3)
    # Beyond what is known, maps say nothing.
    for field, others in ((one.probability, other.probability), (one.sizes, other.sizes)):
        np.testing.assert_allclose(field[..., one.known], others[..., one.known], atol=2e-3)


def whole(place: Workplace, slide: str) -> SlideMaps:
    """What one uninterrupted look says."""
    with open_slide(place.images[slide]) as opened:
        return predict_slide(load_ensemble(place.folder / "champion"), opened).maps


def test_every_slide_gets_a_first_look_then_a_close_one_and_its_files(place):
    lines = place.run()
    assert [line.done for line in lines] == [0, 0, 1, 2]
    assert {line.error for line in lines} == {None}
    files = place.files("slide0")
    maps = files.read()
    assert maps is not None
    assert not maps.is_coarse
    assert_alike(whole(place, "slide0"), maps)
    for path in (files.uncertainty, files.thumbnail, files.labels):
        assert path.stat().st_size > 0
    with open_slide(files.uncertainty) as doubt:
        assert doubt.pixel_size.um == pytest.approx(8.0)
    names = {
        one["properties"]["classification"]["name"]
        for one in json.loads(files.labels.read_text())["features"]
    }
    assert names == {"tumour"}
    row = place.scores()["slide0"]
    assert row.error is None
    assert row.doubt is not None
    assert 0 < row.doubt < 0.7
    assert row.quality is not None
    assert 0 < row.quality < 1
    assert row.foreground_mm3["tumour"] == pytest.approx(
        float((maps.probability.argmax(axis=0) == 1)[maps.known].sum()) * 64e-6, rel=1e-6
    )
    assert not [path for path in files.folder.iterdir() if path.name.startswith(".")]


def test_nothing_is_looked_at_twice_but_what_changed_or_went_away(place):
    place.run()
    assert place.run() == []
    shutil.rmtree(place.files("slide0").folder)
    assert {line.case for line in place.run()} == {"slide0"}
    slide_of(place.images["slide1"], stained(9)).close()
    assert {line.case for line in place.run()} == {"slide1"}
    maps = place.files("slide1").read()
    assert maps is not None
    assert_alike(whole(place, "slide1"), maps)


def test_what_cannot_be_read_is_named_once_and_the_others_go_on(place):
    place.images["broken"] = place.folder / "broken.svs"
    place.images["broken"].write_bytes(b"no slide")
    place.images["gone"] = place.folder / "gone.svs"
    place.list()
    lines = place.run()
    assert {line.case for line in lines if line.error} == {"broken", "gone"}
    assert {slide for slide, row in place.scores().items() if row.error is None} == {"slide0", "slide1"}
    assert place.run() == []


def test_an_interrupted_look_goes_on_where_it_was_and_says_the_same(tmp_path):
    place = Workplace(tmp_path, slides=1, rows=1200)
    stopped = threading.Event()
    scorer = place.scorer(stopped, keep_every_s=0.0)
    files, revision = place.files("slide0"), revision_of(place.images["slide0"])

    # Another thread stops it as soon as some rows are kept.
    def stop_when_begun() -> None:
        while not stopped.wait(0.01):
            state = files.state(revision)
            if state is not None and state.rows_done > 20:
                stopped.set()

    watcher = threading.Thread(target=stop_when_begun)
    watcher.start()
    with pytest.raises(StoppedError):
        list(scorer.run())
    watcher.join()
    state, partial = files.state(revision), files.read()
    assert state is not None
    assert partial is not None
    assert 20 < state.rows_done < partial.shape[0]
    assert not state.is_complete
    # What is not done is still there from the first look.
    assert partial.is_coarse
    np.testing.assert_array_equal(partial.known, partial.tissue)
    assert place.scores() == {}

    assert [line.case for line in place.run()] == ["slide0"]
    finished = files.read()
    assert finished is not None
    assert_alike(whole(place, "slide0"), finished)
    place.database.close()


def test_a_slide_that_a_reader_asks_about_comes_first_also_in_the_middle_of_another(tmp_path):
    place = Workplace(tmp_path, slides=3, rows=900)
    place.wanted = {"slide2": 5.0, "slide1": 4.0}
    place.list()
    reports = place.scorer().run()
    assert next(reports).case == "slide2"
    # While slide1 waits for its turn, a reader opens slide0.
    place.wanted["slide0"] = 9.0
    place.list()
    assert [line.case for line in reports] == ["slide0", "slide1"]
    place.database.close()


def test_turning_to_another_slide_keeps_what_was_done(tmp_path):
    place = Workplace(tmp_path, slides=2, rows=1200)
    place.wanted = {"slide0": 1.0}
    place.list()
    files, revision = place.files("slide0"), revision_of(place.images["slide0"])

    def ask_for_another() -> None:
        for _ in range(10_000):
            state = files.state(revision)
            if state is not None and state.rows_done > 20:
                place.wanted["slide1"] = 2.0
                place.list()
                return
            threading.Event().wait(0.005)

    watcher = threading.Thread(target=ask_for_another)
    watcher.start()
    lines = list(place.scorer(keep_every_s=0.0).run())
    watcher.join()
    assert [line.case for line in lines] == ["slide1", "slide0"]
    maps = files.read()
    assert maps is not None
    assert_alike(whole(place, "slide0"), maps)
    place.database.close()


def test_a_look_may_be_cut_anywhere(place):
    expected = whole(place, "slide0")
    ensemble = load_ensemble(place.folder / "champion")
    for calls in (1, 7, 10_000):
        maps = whole(place, "slide0")
        maps.probability[:] = 0
        look, count = CloseLook(maps), 0

        def interrupt(_: float, most: int = calls) -> None:
            nonlocal count
            count += 1
            if count > most:
                raise InterruptedError

        with open_slide(place.images["slide0"]) as slide:
            try:
                look.look(ensemble, slide, SlideOptions(), progress=interrupt)
            except InterruptedError:
                look.take()
                rest = CloseLook(maps, look.rows_done)
                rest.look(ensemble, slide, SlideOptions())
        assert_alike(expected, maps)


def test_glass_alone_is_scored_as_nothing_to_ask_about(place):
    place.images = {"glass": place.folder / "glass.tif"}
    slide_of(place.images["glass"], np.full((256, 256, 3), 245, np.uint8)).close()
    place.list()
    place.run()
    row = place.scores()["glass"]
    assert (row.error, row.doubt, row.quality) == (None, 0.0, 0.0)


def test_damaged_maps_are_made_again(place):
    place.run()
    files = place.files("slide0")
    files.maps.write_bytes(b"damaged")
    assert files.read() is None
    with place.database.writing() as c:
        c.exec_driver_sql("DELETE FROM scores")
    place.run()
    assert files.read() is not None
    assert files.version() is not None
    assert SlideFiles(place.folder / "never").version() is None


def test_maps_of_champions_that_nobody_looks_back_to_are_removed(place):
    old = place.maps / RECIPE / "long ago"
    old.mkdir(parents=True)
    place.run()
    assert not old.exists()
    assert place.files("slide0").folder.is_dir()


def command(place: Workplace, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "overread.queue.patches.scorer", "--database", place.database.url),
        *(
            "--recipe",
            RECIPE,
            "--cases",
            str(place.cases),
            "--maps",
            str(place.maps),
            "--threads",
            "1",
            *more,
        ),
    ]


def test_as_a_process_it_reports_lines_of_json_and_ends_with_its_standard_input(tmp_path):
    place = Workplace(tmp_path, slides=1)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    champion = ("--champion", str(tmp_path / "champion"))
    with subprocess.Popen(
        command(place, *champion), text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        assert process.wait() == 0
    assert [line["done"] for line in lines] == [0, 1]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        """With an input that is closed from the start."""
        return subprocess.run(
            command(place, *more),
            text=True,
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    without = run()
    assert without.returncode == 1
    assert "without a champion there is nothing to say about slides" in without.stderr
    place.images["slide1"] = tmp_path / "slide1.tif"
    slide_of(place.images["slide1"], stained(1)).close()
    place.list()
    ended = run(*champion)
    assert ended.returncode == 0
    assert set(place.scores()) == {"slide0"}
    place.database.close()


# As `main`, but what was done is kept after every row, and no slide is done before somebody who looks on is awake.
KEEPS_ALL = """
import sys, threading, time
from pathlib import Path
from overread.ensemble.slides.prediction import SlideOptions
from overread.ensemble.storage import load_ensemble
from overread.queue.claims import Claims
from overread.queue.patches.scorer import SlideScorer
from overread.state.database import Database
class Slowly(threading.Event):
    def is_set(self):
        time.sleep(0.05)
        return super().is_set()
folder = Path(sys.argv[1])
database = Database.open(folder / "overread.db")
scorer = SlideScorer(database, sys.argv[2], load_ensemble(folder / "champion"), folder / "slides.json",
    folder / "maps", Claims.for_database(database.url), Slowly(),
    options=SlideOptions(batch=4, workers=1), keep_every_s=0.0)
list(scorer.run())
"""


@pytest.mark.parametrize("rows_done", [0, 20, 90])
def test_a_scorer_that_is_killed_in_the_middle_loses_nothing_that_it_kept(tmp_path, rows_done):
    place = Workplace(tmp_path, slides=2, rows=1200)
    files, revision = place.files("slide0"), revision_of(place.images["slide0"])
    place.wanted = {"slide0": 1.0}
    place.list()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", KEEPS_ALL, str(tmp_path), RECIPE], env=environment
    ) as process:
        while (state := files.state(revision)) is None or state.rows_done < rows_done:
            assert process.poll() is None
            threading.Event().wait(0.005)
        process.kill()
    kept, maps = files.state(revision), files.read()
    assert kept is not None
    assert maps is not None
    assert not kept.is_complete
    assert kept.rows_done >= rows_done
    assert place.scores() == {}
    # What the state says is done, the maps hold.
    done = slice(0, kept.rows_done)
    finished = whole(place, "slide0")
    for name, field in maps.maps.items():
        known = finished.known[done]
        np.testing.assert_allclose(field[done][known], finished.maps[name][done][known], atol=2e-3)

    told: list[int] = []
    take = CloseLook.__init__

    def noted(look: CloseLook, found: SlideMaps, rows: int = 0) -> None:
        told.append(rows)
        take(look, found, rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CloseLook, "__init__", noted)
        assert {line.case for line in place.run()} == {"slide0", "slide1"}
    assert told[0] == kept.rows_done
    assert set(place.scores()) == {"slide0", "slide1"}
    again = files.read()
    assert again is not None
    assert_alike(finished, again)
    assert not [path for path in files.folder.iterdir() if path.name.startswith(".")]
    place.database.close()
