"""The study of UGA asks, learns and judges by the code in service, goes on after a stop, and is shared by processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner

from overread.cli import app
from overread.domain import BadInputError
from overread.ensemble.training import train_members
from overread.learning import retraining
from overread.learning.gate import judge
from overread.state.schema import SCORES, SERVINGS
from overread.studies.uga import rounds
from overread.studies.uga.protocol import PRESETS
from overread.studies.uga.report import write_report
from overread.studies.uga.results import RESULTS, gather, write_results
from overread.studies.uga.rounds import opened_database
from overread.studies.uga.rows import read_results
from overread.studies.uga.study import finished, run_study, units_of
from support.tiny_study import EDGE_PX, PATCH_PX, PROTOCOL, balls, discs, job

pytestmark = pytest.mark.slow
ARMS = ("none", "all", "random", "clasp_pe", "uga", "hed", "adabn", "pseudo")


class KilledError(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of discs."""
    assert discs.name == "discs"
    folder = tmp_path_factory.mktemp("uga")
    run_study(job(folder, ARMS))
    return folder


@pytest.fixture(scope="module")
def results(work: Path) -> dict[str, Any]:
    found = gather(job(work, ARMS), "discs", "overread study uga")
    assert found is not None
    return found


def test_every_arm_is_judged_on_every_held_out_case(results: dict[str, Any]):
    read = read_results(results)
    assert read.complete_seeds == (0,)
    assert read.study.arms == ARMS
    by_arm = Counter((row.arm, row.budget, row.domain) for row in read.rows)
    # Seven pictures of four patients in the north: at most a third judge; half of four in the south.
    free = [("none", 0), ("hed", 0), ("pseudo", 0)]
    for arm, budget in (*free, ("random", 1), ("random", 2), ("uga", 2), ("all", 2)):
        assert by_arm[arm, budget, "north"] == 2
        assert by_arm[arm, budget, "south"] == 2
    # Statistics of another place say nothing about the first one.
    assert by_arm["adabn", 0, "north"] == 0
    assert by_arm["adabn", 0, "south"] == 2
    assert all(row.dice is not None and 0 <= row.dice <= 1 for row in read.rows)


def test_asks_as_many_patches_as_the_budget_says_and_none_twice(results: dict[str, Any]):
    picks = read_results(results).picks
    assert {pick.domain for pick in picks} == {"south"}
    judges = {row["case"] for row in results["rows"]}
    for arm in ("random", "clasp_pe", "uga"):
        own = [pick for pick in picks if pick.arm == arm]
        assert [pick.budget for pick in own] == [1, 2]
        assert len({(pick.case, pick.box) for pick in own}) == 2
        assert not {pick.case for pick in own} & judges
        for pick in own:
            assert pick.box is not None
            x, y, width, height = pick.box
            assert (width, height) == (PATCH_PX, PATCH_PX)
            assert 0 <= x <= EDGE_PX - width
            assert 0 <= y <= EDGE_PX - height
            assert pick.mm2 == pytest.approx((PATCH_PX / 1000) ** 2)
            # A ninth of a picture; the pool holds two.
            assert pick.tissue_share is not None
            assert 0.02 < pick.tissue_share < 0.12


def test_patients_are_never_divided(work: Path):
    bench = units_of(job(work, ("none",)))[0].bench
    teach = {*bench.division.train, *(name for ids in bench.division.pool.values() for name in ids)}
    judge = {name for ids in bench.division.test.values() for name in ids}
    whose = {case.id: case.patient for case in bench.study_set.cases}
    assert not {whose[name] for name in teach} & {whose[name] for name in judge}
    kept = json.loads((bench.folder / "models" / "study" / "central.json").read_text())
    assert {*kept["training"], *kept["protected"]} == {*bench.division.train}


def test_labels_are_those_of_the_label_store_and_the_gate_speaks(work: Path, results: dict[str, Any]):
    folder = units_of(job(work, ("none",)))[0].bench.folder
    sidecars = sorted((folder / "random" / "rounds" / "02" / "state" / "accepted").glob("south_*/*.json"))
    assert len(sidecars) == 2
    assert {json.loads(path.read_text())["strategy"] for path in sidecars} == {"random"}
    told = [(row["arm"], row["budget"], type(row["promoted"])) for row in results["gate"]]
    assert sorted(told) == sorted(
        [(arm, budget, bool) for arm in ("random", "clasp_pe", "uga") for budget in (1, 2)]
        + [("all", 2, bool)]
    )


def test_what_the_gate_rejects_is_not_judged_where_the_gate_is_obeyed(
    tmp_path: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def rejecting(*arguments: Any, **options: Any) -> Any:
        return replace(judge(*arguments, **options), promoted=False, reason="a test says no")

    monkeypatch.setattr(rounds, "judge", rejecting)
    here = job(tmp_path, ("none", "random", "all"), obeyed=True)
    run_study(here)
    found = gather(here, "discs", "")
    assert found is not None

    def said(where: dict[str, Any], arm: str) -> dict[tuple[str, int], float]:
        return {(row["case"], row["budget"]): row["dice"] for row in where["rows"] if row["arm"] == arm}

    first, asked = said(found, "none"), said(found, "random")
    assert asked == {(case, budget): first[case, 0] for case, _ in first for budget in (1, 2)}
    ceiling = said(found, "all")
    assert all(ceiling[case, 2] != first[case, 0] for case, _ in first), "the ceiling is what labels can do"
    heeded = said(results, "random")
    assert any(heeded[case, 2] != asked[case, 2] for case, _ in first)


@pytest.mark.parametrize("beside", [False, True])
def test_with_each_place_s_own_statistics_every_step_learns_from_one_place(
    tmp_path: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, beside: bool
):
    learnt: list[tuple[bool, list[tuple[tuple[str, ...], float]]]] = []

    def spying(work: Path, plan: Any, lessons: Any, *more: Any) -> None:
        learnt.extend(
            (lesson.apart, [(pool.cases, pool.share) for pool in lesson.pools]) for lesson in lessons
        )
        train_members(work, plan, lessons, *more)

    monkeypatch.setattr(retraining, "train_members", spying)
    here = job(tmp_path, ("none", "random", "clasp_pe", "adabn"), by_place=True, beside=beside)
    run_study(here)
    assert all(apart for apart, _ in learnt)
    both = [pools for _, pools in learnt if len(pools) == 2]
    assert both, "some member learns from the south"
    for pools in both:
        assert sum(share for _, share in pools) == pytest.approx(1)
        # The central data are one place, the south another.
        (central, _), (south, _) = pools
        assert not [name for name in central if name.startswith("local-")]
        asked = [name for name in south if name.startswith("local-south")]
        seen = [name for name in south if name.startswith("local-beside-south")]
        assert asked
        assert len(asked) + len(seen) == len(south)
        assert bool(seen) == beside
    found = gather(here, "discs", "")
    assert found is not None

    def said(arm: str, where: dict[str, Any] = found) -> dict[tuple[str, int], float]:
        return {(row["case"], row["budget"]): row["dice"] for row in where["rows"] if row["arm"] == arm}

    assert said("none") == said("none", results)
    assert said("adabn") == said("adabn", results), "the first model's, with the statistics of the place"
    assert {place for place, _ in said("random")} == {place for place, _ in said("random", results)}
    assert said("random") != said("random", results)
    left = sorted(path.name for path in tmp_path.rglob("at_*"))
    assert left == ["at_1"], "of adapted models only that of the arm is kept"


def test_a_self_taught_model_asks_and_sees_again_what_taught_it(
    tmp_path: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    learnt: list[tuple[Path, list[tuple[set[str], float]]]] = []

    def spying(work: Path, plan: Any, lessons: Any, *more: Any) -> None:
        for lesson in lessons:
            pools = [
                (
                    {name.split("-")[1] if name.startswith("local-") else "central" for name in p.cases},
                    p.share,
                )
                for p in lesson.pools
            ]
            learnt.append((lesson.start, pools))
        train_members(work, plan, lessons, *more)

    monkeypatch.setattr(retraining, "train_members", spying)
    here = job(tmp_path, ("random", "clasp_pe"), self_taught=True)
    run_study(here)
    # The first two trainings of a study are the first model's; then what it says itself teaches it.
    (_, first), *further = [(start, pools) for start, pools in learnt if start is not None]
    assert first == [({"central"}, 0.5), ({"pseudo"}, 0.5)]
    again = [pools for start, pools in further if len(pools) == 3]
    assert again, "some member learns from the patches that were asked about"
    for central, pseudo, asked in again:
        assert (central, pseudo) == (({"central"}, 0.5), ({"pseudo"}, 0.25))
        assert asked[1] == 0.25
        assert not asked[0] & {"central", "pseudo"}
    found = gather(here, "discs", "")
    assert found is not None

    def said(arm: str, where: dict[str, Any]) -> dict[tuple[str, int], float]:
        return {(row["case"], row["budget"]): row["dice"] for row in where["rows"] if row["arm"] == arm}

    assert said("none", found) == said("none", results)
    assert said("pseudo", found) == said("pseudo", results), (
        "the same model, whether it is asked to ask or not"
    )
    assert said("random", found) != said("random", results)


def test_normalised_everything_is_seen_in_the_colours_of_the_slides_that_teach(
    tmp_path: Path, results: dict[str, Any]
):
    here = job(tmp_path, ("none", "random"), normalised="place")
    run_study(here)
    (unit, *_) = units_of(here)
    bench = unit.bench
    told = json.loads((bench.central / "dataset.json").read_text())["colours"]
    np.testing.assert_allclose(told, bench.reference)
    np.testing.assert_allclose(bench.load(bench.store.current("study")).reference, told)
    assert len(bench.study_set.alike(bench.pool[0].image)) > 1
    # The grey pictures of the south are as violet as the others now, those that teach and those that are asked about.
    for folder in (bench.central / "imagesTr", bench.folder / "normalised"):
        pictures = [np.asarray(Image.open(path).convert("RGB"), float) for path in folder.rglob("*.png")]
        assert pictures
        for picture in pictures:
            dark = picture[picture.sum(axis=-1) < 400]
            if len(dark):
                assert dark[:, 2].mean() > dark[:, 1].mean() + 30
    found = gather(here, "discs", "")
    assert found is not None
    dice = [row["dice"] for row in found["rows"] if row["arm"] == "random"]
    assert dice != [row["dice"] for row in results["rows"] if row["arm"] == "random"]


@pytest.mark.parametrize(
    ("change", "value"),
    [("by_place", True), ("self_taught", True), ("normalised", "slide"), ("peaks", 8.0), ("share", 100.0)],
)
def test_what_is_for_pictures_is_refused_for_volumes(tmp_path: Path, change: str, value: object):
    with pytest.raises(BadInputError, match=f"balls: {change} is for pictures, not for volumes"):
        run_study(job(tmp_path, ("none",), ("balls",), **{change: value}))


def test_doubt_is_judged_place_by_place(results: dict[str, Any]):
    read = read_results(results)
    told = {(row.arm, row.domain) for row in read.doubt}
    assert {(arm, place) for arm in ("none", "random", "all") for place in ("north", "south")} <= told
    for row in read.doubt:
        assert row.error_share is not None
        assert row.augrc is not None
        # By the best of all orders e² / 2 is left, by the worst all but that of e.
        e = row.error_share
        assert e**2 / 2 - 1e-6 <= row.augrc <= e - e**2 / 2 + 1e-6
    assert {patch.measure for patch in read.patches} == {"predictive_entropy", "pairwise_dice", "uga"}


def test_goes_on_after_it_was_killed_and_gets_the_same(tmp_path: Path, results: dict[str, Any]):
    def killing(stage: str, times: int):
        left = [times]

        def report(what: str, _share: float) -> None:
            if stage in what:
                left[0] -= 1
                if left[0] == 0:
                    raise KilledError

        return report

    again = job(tmp_path, ("none", "clasp_pe"))
    for stage, times in (("looking at the pool", 1), ("clasp_pe: judging", 1), ("clasp_pe: training", 2)):
        with pytest.raises(KilledError):
            run_study(again, killing(stage, times))
    run_study(again)
    found = gather(again, "discs", "")
    assert found is not None
    for part in ("rows", "picks", "doubt", "patches", "gate"):
        wanted = [row for row in results[part] if row.get("arm", "none") in ("none", "clasp_pe")]
        assert sorted(map(json.dumps, found[part])) == sorted(map(json.dumps, wanted))


def test_two_processes_share_the_pieces(tmp_path: Path):
    arms = ("none", "random", "all")
    command = [sys.executable, "-m", "support.tiny_study", str(tmp_path), ",".join(arms)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True) as other:
        run_study(job(tmp_path, arms))
        _, said = other.communicate(timeout=300)
    assert other.returncode == 0, said
    assert [path.parent.name for path in finished(job(tmp_path, arms), "discs")] == sorted(arms)


def test_tells_what_its_pieces_took_whenever_they_were_done(work: Path, tmp_path: Path):
    here = job(work, ("none", "random"))
    pieces = {path.parent.name: json.loads(path.read_text()) for path in finished(here, "discs")}
    assert pieces["random"]["seconds"] == pytest.approx(
        sum(one["seconds"] for one in pieces["random"]["rounds"])
    )
    (told,) = write_results(here, tmp_path / "out", "", only=("random",))
    assert told["study"]["seconds"] == pytest.approx(pieces["none"]["seconds"] + pieces["random"]["seconds"])
    assert told["study"]["seconds"] > 0
    # A piece that was not timed.
    untimed = next(path for path in finished(here, "discs") if path.parent.name == "random")
    untimed.write_text(json.dumps({key: pieces["random"][key] for key in ("arm", "seed", "rounds")}))
    assert write_results(here, tmp_path / "out", "", only=("random",))[0]["study"]["seconds"] is None
    untimed.write_text(json.dumps(pieces["random"]))


def test_results_among_the_data_are_refused(tmp_path: Path):
    told = CliRunner(env={"TERM": "dumb", "COLUMNS": "1000"}).invoke(
        app, ["study", "uga", "--data", str(tmp_path), "--sets", "dsb2018", "--out", str(tmp_path / "out")]
    )
    assert told.exit_code != 0
    assert "would count as data that changed" in told.output
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_is_there(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PRESETS, "tiny", PROTOCOL)
    runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})
    asked = ["study", "uga", "--sets", "discs", "--preset", "tiny", "--seeds", "0", "--device", "cpu"]
    told = runner.invoke(app, [*asked, "--work", str(work), "--report", "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "one seed shows nothing" in told.output.replace("\n", " ")
    assert (tmp_path / "out" / "report.html").exists()
    kept = json.loads((tmp_path / "out" / "discs" / RESULTS).read_text())
    assert len(kept["picks"]) == 6
    # Its own seed of another machine, and a seed that only that machine did.
    elsewhere = tmp_path / "elsewhere.json"
    other = json.loads(json.dumps(kept).replace('"seed": 0', '"seed": 1'))
    other["study"]["seeds"] = [1]
    elsewhere.write_text(json.dumps(other))
    again = ["--work", str(work), "--report", "--out", str(tmp_path / "out"), "--also", str(elsewhere)]
    told = runner.invoke(app, [*asked, *again])
    assert told.exit_code == 0, told.output
    assert read_results(json.loads((tmp_path / "out" / "discs" / RESULTS).read_text())).complete_seeds == (
        0,
        1,
    )
    told = runner.invoke(app, [*asked, *again, "--arms", "random"])
    assert told.exit_code == 0, told.output
    assert set(json.loads((tmp_path / "out" / "discs" / RESULTS).read_text())["study"]["arms"]) == {
        "none",
        "random",
    }
    other["study"]["set"] = "rings"
    elsewhere.write_text(json.dumps(other))
    refused = runner.invoke(app, [*asked, *again])
    assert refused.exit_code != 0
    assert "are of rings, and told is discs" in refused.output.replace("\n", " ")
    for wrong, words in (
        (["--arms", "guess"], "there is no arm 'guess'"),
        (["--seeds", "one"], "seeds are whole numbers"),
        (["--change", "speed=2"], "no 'speed' to change"),
        (["--central", "west"], "no case of the central domain 'west'"),
    ):
        refused = runner.invoke(app, [*asked, "--work", str(work), *wrong])
        assert refused.exit_code != 0
        assert words in refused.output.replace("\n", " ")
    empty = runner.invoke(app, [*asked, "--work", str(tmp_path / "work"), "--report"])
    assert empty.exit_code != 0
    assert "nothing is done" in empty.output


def test_volumes_are_asked_about_by_the_queue_that_serves_them(tmp_path: Path):
    assert balls.name == "balls"
    arms = ("none", "pairwise_dice", "uga")
    here = job(tmp_path, arms, ("balls",), gated=False)
    run_study(here)
    found = gather(here, "balls", "", None)
    assert found is not None
    [folder] = (tmp_path / "balls").glob("*/seed_0")
    rounds = folder / "pairwise_dice" / "rounds"
    for number in (1, 2):
        with opened_database(rounds / f"{number:02d}" / "state") as database, database.reading() as c:
            servings = c.execute(select(SERVINGS)).all()
            scored = c.execute(select(SCORES.c.champion, SCORES.c.case_id)).all()
            assert {row.outcome for row in servings} == {"submitted"}
            assert {row.case_id for row in servings} <= {"south_0", "south_1", "south_2", "south_3"}
            # Each model scored what was waiting; of what was asked, where it lies among others is known.
            by_champion = Counter(champion for champion, _case in scored)
            assert by_champion.pop("", 0) == number - 1
            assert sorted(by_champion.values(), reverse=True) == [2, 1][:number]
    picks = {arm: [pick for pick in found["picks"] if pick["arm"] == arm] for arm in arms[1:]}
    assert all("members draw it differently" in pick["reason"] for pick in picks["pairwise_dice"])
    # The paper's score is none of cases: its volumes are one patch each.
    assert all("members draw it differently" not in pick["reason"] for pick in picks["uga"])
    assert len({pick["case"] for pick in picks["uga"]}) == 2


def test_tables_made_by_the_queue_of_patches_keep_their_name_and_pictures_have_no_other():
    assert PROTOCOL.of_axes(2).key() == PROTOCOL.changed({"queue": "patches"}).of_axes(3).key()
    assert PROTOCOL.of_axes(3).key() != PROTOCOL.of_axes(2).key()
    with pytest.raises(BadInputError, match="the queue of cases is for volumes"):
        PROTOCOL.changed({"queue": "cases"}).of_axes(2)
    with pytest.raises(BadInputError, match="queue is 'slides', expected patches or cases"):
        PROTOCOL.changed({"queue": "slides"})


def test_volumes_are_asked_about_as_a_whole(tmp_path: Path):
    assert balls.name == "balls"
    arms = ("none", "most_uncertain", "hed")
    here = job(tmp_path, arms, ("balls",), gated=False)
    run_study(here)
    found = write_results(here, tmp_path / "out", "")[0]
    # Volumes have no stain.
    assert found["study"]["arms"] == ["none", "most_uncertain"]
    assert [pick["box"] for pick in found["picks"]] == [None, None]
    assert len({pick["case"] for pick in found["picks"]}) == 2
    # 20 x 18 x 10 voxels of 2 mm³.
    assert {pick["mm2"] for pick in found["picks"]} == {7200.0}
    assert [pick["tissue_share"] for pick in found["picks"]] == [0.5, 0.5]
    assert found["gate"] == []
    assert json.loads((tmp_path / "out" / "balls" / RESULTS).read_text()) == found
    write_report(found, tmp_path / "out")
