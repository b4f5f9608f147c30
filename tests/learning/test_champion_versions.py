"""Versions are immutable, a small file names the one in service, and neither crash nor crowd leaves half of either."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.threshold import write_threshold_ensemble
from overread.learning.champions import ChampionStore
from overread.learning.durable import write_json

ROOT = Path(__file__).parents[2]


def an_ensemble(folder: Path, cut: float) -> Path:
    """A finished ensemble that says 1 above `cut`; another cut is another identity."""
    write_threshold_ensemble(folder, "organ", ["background", "organ"], [cut])
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ChampionStore:
    return ChampionStore(tmp_path / "model")


@pytest.fixture
def three(store: ChampionStore, tmp_path: Path) -> list[str]:
    """Names of three champions, one after the other; the last is in service."""
    return [store.publish("organ", an_ensemble(tmp_path / f"e{cut}", cut)).name for cut in (10, 20, 30)]


def test_a_version_that_was_added_is_not_in_service(store: ChampionStore, tmp_path: Path):
    first = store.publish("organ", an_ensemble(tmp_path / "a", 10))
    second = store.add("organ", an_ensemble(tmp_path / "b", 20))
    assert store.current("organ") == first
    assert load_ensemble(second).name == "organ"
    store.promote("organ", second.name, why="better")
    assert store.current("organ") == second
    assert [(term.champion, term.why) for term in store.history("organ")] == [
        (first.name, ""),
        (second.name, "better"),
    ]


def test_adding_the_same_ensemble_again_changes_nothing(store: ChampionStore, tmp_path: Path):
    first = store.add("organ", an_ensemble(tmp_path / "a", 10))
    before = (first / "ensemble.json").stat().st_mtime_ns
    assert store.add("organ", tmp_path / "a") == first
    assert (first / "ensemble.json").stat().st_mtime_ns == before


def test_a_copy_that_was_interrupted_is_not_a_version_and_is_swept_away(store: ChampionStore, tmp_path: Path):
    half = store.root / "organ" / ".incoming-killed" / "ensemble"
    half.mkdir(parents=True)
    (half / "ensemble.json").write_text("{")
    added = store.add("organ", an_ensemble(tmp_path / "a", 10))
    assert not half.parent.exists()
    assert [version.identity for version in store.versions("organ")] == [added.name]


def test_versions_come_in_the_order_of_their_service(store: ChampionStore, three: list[str], tmp_path: Path):
    waiting = store.add("organ", an_ensemble(tmp_path / "w", 40)).name
    versions = store.versions("organ")
    assert [version.identity for version in versions] == [*three, waiting]
    assert [version.is_champion for version in versions] == [False, False, True, False]
    assert [len(version.terms) for version in versions] == [1, 1, 1, 0]
    assert versions[0].description["kind"] == "threshold"
    with pytest.raises(NotFoundError, match="recipe 'liver' has no version in"):
        store.versions("liver")


def test_the_parent_is_named_by_its_folder(store: ChampionStore, three: list[str], tmp_path: Path):
    folder = an_ensemble(tmp_path / "child", 50)
    parent = read_description(store.current("organ"))["identity"]
    write_description(folder, {**read_description(folder), "parent": parent})
    child = store.add("organ", folder).name
    assert {v.identity: v.parent for v in store.versions("organ")}[child] == three[2]


def test_rolling_back_twice_goes_back_twice_and_not_to_and_fro(store: ChampionStore, three: list[str]):
    assert store.rollback("organ").name == three[1]
    assert store.rollback("organ").name == three[0]
    with pytest.raises(NotFoundError, match=f"no usable champion from before {three[0]}"):
        store.rollback("organ")
    assert store.current("organ").name == three[0]
    assert [term.rollback for term in store.history("organ")] == [False, False, False, True, True]


def test_rolling_back_to_a_named_version_takes_the_beginning_of_its_name(
    store: ChampionStore, three: list[str], tmp_path: Path
):
    assert store.rollback("organ", three[0][:6]).name == three[0]
    # From there the way on leads to what was in service later, by name only.
    assert store.rollback("organ", three[2]).name == three[2]
    with pytest.raises(BadInputError, match="is the champion already"):
        store.rollback("organ", three[2])
    never = store.add("organ", an_ensemble(tmp_path / "n", 99)).name
    with pytest.raises(BadInputError, match="never was in service"):
        store.rollback("organ", never)
    with pytest.raises(NotFoundError, match="has no version 'xyz'; there are"):
        store.rollback("organ", "xyz")


def test_where_nothing_was_ever_in_service_there_is_no_way_back(store: ChampionStore, tmp_path: Path):
    with pytest.raises(NotFoundError, match="recipe 'organ' has no version in"):
        store.rollback("organ")
    store.add("organ", an_ensemble(tmp_path / "a", 10))
    with pytest.raises(NotFoundError, match="hence none to go back from"):
        store.rollback("organ")


def test_a_beginning_that_fits_two_versions_is_refused(store: ChampionStore, tmp_path: Path):
    for name in ("abc1", "abc2"):
        (store.root / "organ" / name).mkdir(parents=True)
    with pytest.raises(BadInputError, match="can be abc1 or abc2; write more of it"):
        store.folder("organ", "abc")
    with pytest.raises(NotFoundError, match="there is none"):
        store.folder("liver", "abc")


def test_a_challenger_does_not_take_the_place_of_a_champion_it_was_not_compared_with(
    store: ChampionStore, three: list[str], tmp_path: Path
):
    challenger = store.add("organ", an_ensemble(tmp_path / "c", 40)).name
    with pytest.raises(BadInputError, match=f"was to replace {three[0]}, but {three[2]} is in service now"):
        store.promote("organ", challenger, instead_of=three[0])
    assert store.promote("organ", challenger, instead_of=three[2]).name == challenger


def test_a_damaged_champion_is_named_with_its_remedy_and_rollback_works(
    store: ChampionStore, three: list[str]
):
    champion = store.current("organ")
    (champion / "ensemble.json").write_text("{")
    with pytest.raises(
        BadInputError, match=rf"champion {three[2]} .* is damaged: .*overread models rollback organ"
    ):
        store.current("organ")
    assert [bool(version.damage) for version in store.versions("organ")] == [False, False, True]
    assert store.rollback("organ").name == three[1]
    with pytest.raises(BadInputError, match=f"version {three[2]} of 'organ' is damaged"):
        store.promote("organ", three[2])


def test_a_champion_whose_weights_are_gone_is_named_with_them(store: ChampionStore, tmp_path: Path):
    folder = an_ensemble(tmp_path / "e", 10)
    (folder / "weights.bin").write_bytes(b"1")
    write_description(folder, {**read_description(folder), "members": ["weights.bin"]})
    (store.publish("organ", folder) / "weights.bin").unlink()
    with pytest.raises(BadInputError, match=r"is damaged: weights\.bin missing in"):
        store.current("organ")


def test_a_champion_whose_folder_is_gone_is_named_and_skipped_by_rollback(
    store: ChampionStore, three: list[str]
):
    shutil.rmtree(store.root / "organ" / three[1])
    assert store.rollback("organ").name == three[0]
    shutil.rmtree(store.root / "organ" / three[0])
    with pytest.raises(NotFoundError, match=f"names champion {three[0]}, .* is not there; go back"):
        store.current("organ")


def test_a_damaged_manifest_is_named(store: ChampionStore, three: list[str]):
    (store.root / "organ" / "champion.json").write_text('{"champion": "x"}')
    with pytest.raises(BadInputError, match=r"champion\.json is damaged"):
        store.current("organ")


CROWD = """
import sys
from pathlib import Path
from overread.learning.champions import ChampionStore
store = ChampionStore(Path(sys.argv[1]))
for _ in range(10):
    for version in sys.argv[2:]:
        store.promote("organ", version)
"""


def test_two_processes_that_promote_at_once_lose_no_line_of_the_history(
    store: ChampionStore, three: list[str]
):
    command = [sys.executable, "-c", CROWD, str(store.root), *three[:2]]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    crowd = [subprocess.Popen(command, env=environment) for _ in range(2)]
    seen: set[str] = set()
    while any(process.poll() is None for process in crowd):
        # A reader without any lock, all the while.
        seen.add(store.current("organ").name)
        time.sleep(0.01)
    assert [process.returncode for process in crowd] == [0, 0]
    assert seen <= set(three)
    history = [term.champion for term in store.history("organ")]
    assert history[:3] == three
    # A promotion of what is in service already leaves no line; each other one leaves one.
    assert all(first != second for first, second in itertools.pairwise(history))
    assert store.current("organ").name == history[-1]


def test_threads_of_one_process_wait_for_each_other_too(store: ChampionStore, three: list[str]):
    threads = [threading.Thread(target=store.promote, args=("organ", name)) for name in three * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = json.loads((store.root / "organ" / "champion.json").read_text())
    assert manifest["champion"] == manifest["history"][-1]["champion"]


def test_a_number_that_json_cannot_hold_is_refused_and_the_file_stays(tmp_path: Path):
    path = tmp_path / "progress.json"
    write_json(path, {"share": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"share": float("nan")})
    assert json.loads(path.read_text()) == {"share": 0.5}
