"""The MedUHIP study: every arm is trained and played, nothing twice, and the tables say what was played."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from overread.cli import app
from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.rated import read_rated
from overread.imaging.volumes import write_nifti
from overread.meduhip.choosers import ORACLE, Chooser
from overread.meduhip.prompts import Click
from overread.meduhip.rated_store import RatedStore
from overread.studies.meduhip.arms import ARMS, arms_named
from overread.studies.meduhip.clinicians import (
    CLICKS,
    CLINICIAN_DISAGREEMENT,
    EITHER,
    MARGIN_VOXEL,
    NOISY_CLICKS,
    NOISY_EITHER,
    PICKS,
    RANDOM_SELECT,
    Clinician,
    places_about,
    places_in_dispute,
)
from overread.studies.meduhip.pieces import pack, unpack
from overread.studies.meduhip.players import FixedPlayer, PickingPlayer, dice
from overread.studies.meduhip.report import markdown, read_sessions, summary, who_rated
from overread.studies.meduhip.study import (
    Protocol,
    folds_of,
    part_studied,
    prepare_study,
    run_study,
    some_of,
    study_plan,
)
from support.rated import disc, write_picture

SIZE = 40
# Enough for a few steps of every arm.
MINUTES = 0.002


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six discs, each drawn by three raters of different generosity."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    for case in range(6):
        centre = rng.uniform(16, 24, 2)
        picture = 60 * rng.random((SIZE, SIZE)) + 120 * disc((SIZE, SIZE), centre, 9)
        write_picture(root / "images" / f"case{case}.png", picture.astype(np.uint8))
        for rater, radius in enumerate((7, 9, 11)):
            write_picture(root / "masks" / f"case{case}_r{rater}.png", disc((SIZE, SIZE), centre, radius))
    return root


@pytest.fixture(scope="module")
def studied(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of all arms, as short as it can be."""
    work = tmp_path_factory.mktemp("study")
    run_study(read_rated(folder), work, Protocol(folds=2, seeds=1, minutes=MINUTES, turns=3))
    return work


def test_every_arm_is_played_on_every_case_with_truths_of_every_number_of_raters(studied: Path) -> None:
    sessions = read_sessions(studied)
    assert {"MedUHIP", "U-Net", "Ensemble of 5", "Clicks, one sample"} <= set(sessions)
    assert {"Probabilistic U-Net (best of K)", "MedUHIP, one averaged Gaussian"} <= set(sessions)
    assert {"MedUHIP, Random Select clicks", "MedUHIP, Clinician Disagreement clicks"} <= set(sessions)
    for name in ("U-Net", "Ensemble of 5"):
        assert {f"{name}, clicks painted in", f"{name}, clicks painted in, noisy clinician"} <= set(sessions)
    both = "Probabilistic U-Net, picks, and clicks painted in"
    assert {both, f"{both}, noisy clinician", "Probabilistic U-Net (best of K), noisy clinician"} <= set(
        sessions
    )
    assert "MedUHIP without adaptation, picks, and clicks painted in" in sessions
    for played in sessions.values():
        assert {(s["case"], s["raters"]) for s in played} == {
            (f"case{case}", count) for case in range(6) for count in (1, 2, 3)
        }
        assert all(len(s["dice"]) == 4 and 0 <= min(s["dice"]) <= max(s["dice"]) <= 1 for s in played)


def test_no_case_is_tested_by_a_model_that_learnt_from_it(folder: Path, studied: Path) -> None:
    folds = read_rated(folder).folds(2, np.random.default_rng(20240803))
    for session in read_sessions(studied)["MedUHIP"]:
        assert session["case"] not in {case.id for case in folds[session["fold"]].train}


def test_what_is_done_is_not_done_again(folder: Path, studied: Path) -> None:
    files = sorted(studied.glob("seed_*/fold_*/*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    run_study(read_rated(folder), studied, Protocol(folds=2, seeds=1, minutes=MINUTES, turns=3))
    assert {file: file.stat().st_mtime_ns for file in sorted(studied.glob("seed_*/fold_*/*"))} == before


def test_a_folder_with_another_protocol_is_refused(folder: Path, studied: Path) -> None:
    with pytest.raises(BadInputError, match="give another --work"):
        run_study(read_rated(folder), studied, Protocol(folds=2, seeds=1, minutes=MINUTES, turns=2))


def published(folder: Path, *names: str, patients: str = "abcdef") -> Path:
    rows = [f"case{case},{patients[case]},{name}" for case, name in enumerate(names)]
    (folder / "patients.csv").write_text("\n".join(["case,patient,subset", *rows]) + "\n")
    return folder


def test_a_published_split_takes_the_place_of_folds(folder: Path, tmp_path: Path) -> None:
    data = published(shutil.copytree(folder, tmp_path / "data"), *["Train"] * 3, *["Test"] * 2, "Validation")
    command = ["study", "meduhip", "--data", str(data), "--work", str(tmp_path / "work"), "--arm", "unet"]
    command += ["--seeds", "1", "--minutes", "0.01", "--turns", "1"]
    split = ["--train-subset", "Train", "--test-subset", "Test"]
    told = CliRunner().invoke(app, [*command, *split, "--json"])
    assert told.exit_code == 0, told.output
    assert "5 cases of 5 patients" in json.loads(told.stdout)["raters"]
    learnt = "learnt from the published part Train (3 cases), tested on Test (2 cases)"
    assert json.loads(told.stdout)["raters"].endswith(learnt)
    assert {session["case"] for session in read_sessions(tmp_path / "work")["U-Net"]} == {"case3", "case4"}
    assert not RatedStore(tmp_path / "work" / "data" / "cases").holds("case5")
    # It goes on, and is told without being given the parts again.
    assert CliRunner().invoke(app, [*command, *split]).exit_code == 0
    assert learnt in CliRunner().invoke(app, [*command, "--report"]).output
    assert "give another --work" in CliRunner().invoke(app, command).output
    wrong = CliRunner().invoke(app, [*command, "--train-subset", "Train", "--test-subset", "Tset"])
    assert "no part 'Tset'; there are Test, Train, Validation" in " ".join(wrong.output.split())


def test_a_split_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="give both --train-subset and"):
        Protocol(folds=1, train_subsets=("Train",))
    with pytest.raises(BadInputError, match="folds is 5, and a published split has one"):
        Protocol(train_subsets=("Train",), test_subsets=("Test",))
    names = [*["Train"] * 3, *["Test"] * 3]
    data = published(shutil.copytree(folder, tmp_path / "data"), *names, patients="abccef")
    protocol = Protocol(folds=1, train_subsets=("Train",), test_subsets=("Test",))
    with pytest.raises(BadInputError, match=r"patients of data are in the part .* such as c \(1 in all\)"):
        folds_of(read_rated(data), protocol)
    dataset = read_rated(published(data, *names))
    few = replace(dataset, cases=dataset.cases[:3])
    with pytest.raises(BadInputError, match="no case of data is left of Test: take more --cases"):
        folds_of(few, protocol)
    assert part_studied(dataset, None, ["Train"], ["Test"]) == dataset


def test_data_that_changed_are_not_taken_for_those_before(folder: Path, tmp_path: Path) -> None:
    data, work = shutil.copytree(folder, tmp_path / "data"), tmp_path / "work"
    protocol = Protocol(folds=2, seeds=1, minutes=MINUTES, turns=1, arms=("unet",), crop=32)
    run_study(read_rated(data), work, protocol)
    # The same files elsewhere are the same.
    (tmp_path / "moved").mkdir()
    data = data.rename(tmp_path / "moved" / "data")
    run_study(read_rated(data), work, protocol)
    mask = data / "masks" / "case2_r1.png"
    before = mask.stat()
    write_picture(mask, disc((SIZE, SIZE), (12, 12), 5))
    changed = r"not the same any more \(changed: masks/case2_r1\.png\); give another --work"
    with pytest.raises(BadInputError, match=changed):
        run_study(read_rated(data), work, protocol)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(BadInputError, match=changed):
        run_study(read_rated(data), work, protocol)
    # What was begun before files were kept goes on.
    (work / "data" / "origin.json").unlink()
    run_study(read_rated(data), work, protocol)


def test_a_part_that_is_not_there_is_named(folder: Path, studied: Path) -> None:
    with pytest.raises(BadInputError, match="no part 3 of 2"):
        run_study(
            read_rated(folder), studied, Protocol(folds=2, seeds=1, minutes=MINUTES, turns=3), part=(3, 2)
        )
    arguments = ["study", "meduhip", "--data", str(folder), "--work", str(studied), "--part", "2"]
    assert "is not I/N" in CliRunner().invoke(app, arguments).output


def test_fewer_cases_are_whole_patients_and_always_the_same(folder: Path) -> None:
    dataset = read_rated(folder)
    some = some_of(dataset, 4)
    assert 0 < len(some.cases) <= 4
    left_out = {case.patient for case in dataset.cases} - {case.patient for case in some.cases}
    assert all(case.patient in left_out for case in dataset.cases if case not in some.cases)
    assert some_of(dataset, 4) == some
    assert some_of(dataset, None) is dataset


def test_cases_are_cut_where_that_is_asked_for(folder: Path, studied: Path, tmp_path: Path) -> None:
    protocol = Protocol(folds=2, seeds=1, minutes=MINUTES, turns=1, arms=("unet",), crop=32)
    run_study(read_rated(folder), tmp_path, protocol)
    image, masks = RatedStore(tmp_path / "data" / "cases").whole("case0")
    assert image.shape[1:] == masks.shape[1:] == (32, 32)
    assert "crop" not in json.loads((studied / "study.json").read_text())["protocol"]
    assert json.loads((tmp_path / "study.json").read_text())["protocol"]["crop"] == 32
    with pytest.raises(BadInputError, match="crop is 8, expected at least 32 voxels"):
        Protocol(crop=8)


def test_where_one_person_labelled_pseudo_raters_stand_for_several(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(4):
        voxels = rng.normal(size=(24, 24, 8)).astype(np.float32)
        mask = np.zeros(voxels.shape, np.uint8)
        mask[6:18, 6:18, 2:6] = 1
        for name, content in (("images", voxels), ("labels", mask)):
            write_nifti(tmp_path / name / f"p{number}.nii.gz", content, Grid(voxels.shape, np.eye(4)))
    dataset = read_rated(tmp_path)
    prepare_study(dataset, tmp_path / "work", Protocol(folds=2))
    _, masks = RatedStore(tmp_path / "work" / "data" / "cases").whole(dataset.cases[0].id)
    assert len(masks) > 1
    assert len({int(mask.sum()) for mask in masks}) > 1
    said = who_rated(dataset)
    assert said.startswith(f"{dataset.name}, 4 cases of 4 patients, one label each: ")
    assert f"the raters are {len(masks)} pseudo-raters, computed from it" in said


def test_the_summary_pairs_by_case_and_counts_interactions(studied: Path) -> None:
    lines = {line.name: line for line in summary(studied, (0.0, 1.0))}
    assert next(iter(lines)) == "MedUHIP"
    assert lines["MedUHIP"].against is None
    fixed = lines["U-Net"]
    assert fixed.dice[0] == fixed.dice[-1], "nothing changes without interactions"
    assert fixed.against is not None
    ours = lines["MedUHIP"].dice[1].estimate - fixed.dice[1].estimate
    assert fixed.against[1].estimate == pytest.approx(ours)
    assert fixed.interactions["0"] == (0.0, 0.0)
    assert fixed.interactions["1"] == (10.0, 1.0)
    assert len(fixed.by_raters) == 3
    text = markdown(list(lines.values()), "seven people")
    told = "seven people. Intervals are over patients, not over trainings: there is one a fold.\n\n| system | t = 0 |"
    assert text.startswith(told)
    # One row a system, and the same by number of raters before and after one and three interactions.
    assert text.count("\n") == 2 + (len(lines) + 2) + 3 * (len(lines) + 5)
    assert "empty" not in text, "no truth of the discs is"
    by_raters = text.partition("Dice at t = 3 by the number n of raters fused:\n\n")[2].splitlines()
    assert by_raters[0] == "| system | n = 1 | n = 2 | n = 3 |"
    assert (
        by_raters[2] == "| MedUHIP | " + " | ".join(f"{n[-1]:.3f}" for n in lines["MedUHIP"].by_raters) + " |"
    )


def test_best_of_n_and_of_k_are_told_where_they_are_known(studied: Path) -> None:
    lines = {line.name: line for line in summary(studied)}
    rows = markdown(list(lines.values()), "").splitlines()
    heads = rows[2].split(" | ")
    best = {row.split(" | ")[0][2:]: row.split(" | ") for row in rows[4 : 4 + len(lines)]}
    found = lines["MedUHIP"].best_of_samples
    assert found is not None
    assert best["MedUHIP"][heads.index("best of N")] == f"{found:.3f}"
    assert best["MedUHIP"][heads.index("best of K")] != ""
    assert best["U-Net"][heads.index("best of N")] == best["U-Net"][heads.index("best of K")] == ""


def write_played(work: Path, arm: str, seed: int, contest: str, sessions: list[dict[str, object]]) -> None:
    piece = work / f"seed_{seed}" / "fold_0" / f"{arm}.json"
    piece.parent.mkdir(parents=True, exist_ok=True)
    contests = {contest: {"sessions": sessions, "sets": []}}
    piece.write_text(json.dumps({"arm": arm, "seed": seed, "fold": 0, "contests": contests}))


def played(case: str, count: int, said: list[float], empty: bool = False) -> dict[str, object]:
    """A session about a truth fused of so many raters, with its Dice at every turn."""
    return {
        "case": case,
        "patient": case,
        "raters": count,
        "repetition": 0,
        "empty": empty,
        "dice": said,
        "best_of_samples": None,
        "best_of_candidates": None,
    }


def test_a_lead_of_one_training_alone_is_not_taken_for_one_of_all(tmp_path: Path) -> None:
    # Ahead by 0.2 on each of twelve cases with one seed, level with the other.
    for seed, lead in enumerate((0.2, 0.0)):
        for arm, contest, more in (("meduhip", "MedUHIP", lead), ("unet", "U-Net", 0.0)):
            dices = {f"case{n}": 0.5 + 0.01 * n + more for n in range(12)}
            sessions = [played(case, 1, [found, found]) for case, found in dices.items()]
            write_played(tmp_path, arm, seed, contest, sessions)
    lines = summary(tmp_path)
    ahead = lines[1].against
    assert ahead is not None
    assert (ahead[0].estimate, ahead[0].low, ahead[0].high) == pytest.approx((0.1, 0.0, 0.2))
    assert "Intervals are over patients and 2 trainings a fold." in markdown(lines, "")


def test_empty_truths_are_told_apart(tmp_path: Path) -> None:
    # Two truths of one case mark something; of two empty ones, something is shown in one until it is clicked away.
    dices = {1: ([0.5, 0.7], False), 2: ([0.0, 1.0], True), 3: ([0.7, 0.9], False), 4: ([1.0, 1.0], True)}
    sessions = [
        played(case, count, said, empty) for case in ("a", "b") for count, (said, empty) in dices.items()
    ]
    write_played(tmp_path, "unet", 0, "U-Net", sessions)
    (line,) = summary(tmp_path)
    assert [value.estimate for value in line.dice] == pytest.approx([0.55, 0.9])
    assert line.dice_non_empty is not None
    assert [value.estimate for value in line.dice_non_empty] == pytest.approx([0.6, 0.8])
    assert line.shown_though_empty == (0.5, 0.0)
    row = dict(zip(*(text.split(" | ") for text in markdown([line], "").splitlines()[2:5:2]), strict=True))
    assert row["all truths, t = 1"] == "0.900 [0.900, 0.900]"
    assert row["truth not empty, t = 1"] == "0.800 [0.800, 0.800]"
    assert row["truth empty: something shown, t = 0"] == "50.0%"
    assert "best of N" not in row


def test_the_command_reports_what_is_there(
    folder: Path, studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["study", "meduhip", "--data", str(folder), "--work", str(studied), "--report"]
    typed = [
        *arguments[:4],
        f"--work={studied}",
        "--report",
        "--out",
        str(tmp_path / "out"),
        "--threshold",
        "0.8",
    ]
    monkeypatch.setattr("sys.argv", ["anywhere/overread", *typed, "--option", "a b=c"])
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "meduhip.json").read_text())
    assert told["study"]["protocol"]["folds"] == 2
    assert (tmp_path / "out" / "meduhip.png").stat().st_size > 1000
    written = (tmp_path / "out" / "meduhip.md").read_text()
    assert "| MedUHIP |" in written
    assert told["command"] == (
        "overread study meduhip --data FOLDER --work=FOLDER --report --out FOLDER --threshold 0.8 --option 'a b=c'"
    )
    assert told["raters"].endswith("6 cases of 6 patients, each labelled by 3 people")
    assert written.startswith(told["raters"])


def test_a_study_goes_on_from_its_sessions_alone(folder: Path, studied: Path, tmp_path: Path) -> None:
    protocol = Protocol(folds=2, seeds=1, minutes=MINUTES, turns=3)
    packed, again = tmp_path / "sessions.json.gz", tmp_path / "again"
    pack(studied, packed)
    before = packed.read_bytes()
    pack(studied, packed)
    assert packed.read_bytes() == before
    # One piece was done here, otherwise; it stays.
    own = again / "seed_0" / "fold_0" / "unet.json"
    own.parent.mkdir(parents=True)
    theirs = json.loads((studied / "seed_0" / "fold_0" / "unet.json").read_text())
    contests = {
        name: contest | {"sessions": contest["sessions"][:1]} for name, contest in theirs["contests"].items()
    }
    own.write_text(json.dumps(theirs | {"contests": contests}))
    pieces = sorted(path.relative_to(studied) for path in studied.glob("seed_*/fold_*/*.json"))
    assert unpack(packed, again) == len(pieces) - 1
    assert sorted(path.relative_to(again) for path in again.glob("seed_*/fold_*/*.json")) == pieces
    assert len(json.loads(own.read_text())["contests"]["U-Net"]["sessions"]) == 1
    own.unlink()
    assert unpack(packed, again) == 1
    assert all((again / piece).read_bytes() == (studied / piece).read_bytes() for piece in pieces)
    # Nothing is trained again, and the tables are the same.
    run_study(read_rated(folder), again, protocol)
    assert not list(again.rglob("*.pt"))
    assert markdown(summary(again), "") == markdown(summary(studied), "")

    told = CliRunner().invoke(
        app,
        [
            "study",
            "meduhip",
            "--data",
            str(folder),
            "--work",
            str(tmp_path / "third"),
            "--report",
            "--also",
            str(packed),
        ],
    )
    assert told.exit_code == 0, told.output
    assert "| MedUHIP |" in told.output
    other = tmp_path / "other"
    run_study(read_rated(folder), other, Protocol(folds=2, seeds=1, minutes=MINUTES, turns=1, arms=("unet",)))
    with pytest.raises(BadInputError, match="holds sessions of another study"):
        unpack(packed, other)
    packed.write_bytes(before[:100])
    with pytest.raises(BadInputError, match=r"sessions\.json\.gz holds no sessions of a study"):
        unpack(packed, again)


def test_an_option_without_a_value_and_an_unknown_arm_are_named(folder: Path, tmp_path: Path) -> None:
    arguments = ["study", "meduhip", "--data", str(folder), "--work", str(tmp_path)]
    assert "KEY=VALUE" in CliRunner().invoke(app, [*arguments, "--option", "task"]).output
    assert "no arm is called" in CliRunner().invoke(app, [*arguments, "--arm", "sam9"]).output
    with pytest.raises(BadInputError, match="no arm"):
        arms_named(["unknown"])
    assert arms_named([]) == list(ARMS)


def test_nothing_played_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no session yet"):
        summary(tmp_path)


def test_a_protocol_without_turns_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least one turn"):
        Protocol(turns=0)


@pytest.mark.parametrize("shape", [(128, 128), (30, 500), (20, 100, 90)])
def test_patches_fit_the_network_and_the_machine(shape: tuple[int, ...]) -> None:
    patch = study_plan(shape, 1, (), 4).patch
    assert all(32 <= n <= 192 and n % 16 == 0 for n in patch)


class TestClinician:
    """Who picks and who clicks."""

    wanted = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 10))
    smaller = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 7))
    rng = np.random.default_rng(0)

    def test_picks_a_candidate_that_is_clearly_better(self) -> None:
        candidates = torch.stack([self.smaller, self.wanted])
        assert EITHER.reacts(self.smaller, candidates, self.wanted, self.rng) == 1

    def test_clicks_on_an_error_where_no_candidate_is_better(self) -> None:
        reaction = EITHER.reacts(self.smaller, self.smaller[None], self.wanted, self.rng)
        assert isinstance(reaction, Click)
        assert reaction.foreground
        assert bool(self.wanted[reaction.place]) is True
        assert bool(self.smaller[reaction.place]) is False

    def test_may_only_pick_or_only_click(self) -> None:
        candidates = torch.stack([self.smaller, self.wanted])
        assert PICKS.reacts(self.smaller, candidates, self.wanted, self.rng) == 1
        assert isinstance(CLICKS.reacts(self.smaller, candidates, self.wanted, self.rng), Click)

    def test_only_picks_and_is_content_where_no_candidate_is_better(self) -> None:
        candidates = torch.stack([self.smaller, self.wanted])
        assert PICKS.reacts(self.wanted, candidates, self.wanted, self.rng) is None
        assert PICKS.reacts(self.smaller, self.smaller[None], self.wanted, self.rng) is None

    def test_who_lapses_picks_anything(self) -> None:
        careless = Clinician("careless", Chooser(lapse=1.0), "picks")
        candidates = torch.stack([self.smaller, self.wanted])
        chosen = {careless.reacts(self.smaller, candidates, self.wanted, self.rng) for _ in range(30)}
        assert chosen == {0, 1}


def test_places_about_are_a_box_with_a_margin() -> None:
    masks = np.zeros((2, 60, 60), bool)
    masks[0, 20:25, 30] = masks[1, 28, 31] = True
    likely = places_about(masks)
    assert likely.sum() == pytest.approx(1)
    rows, columns = np.nonzero(likely)
    assert (rows.min(), rows.max()) == (20 - MARGIN_VOXEL, 28 + MARGIN_VOXEL)
    assert (columns.min(), columns.max()) == (30 - MARGIN_VOXEL, 31 + MARGIN_VOXEL)
    assert np.unique(likely[likely > 0]).size == 1
    assert (places_about(np.zeros((2, 8, 8), bool)) > 0).all()


def test_places_in_dispute_are_likely_by_how_far_the_raters_differ() -> None:
    masks = np.zeros((3, 4, 4), bool)
    # Against the first: both others mark one voxel, one of them another; of a third all think alike.
    masks[1:, 0, 0] = masks[1, 1, 1] = masks[:, 2, 2] = True
    likely = places_in_dispute(masks, [0])
    assert likely[0, 0] == pytest.approx(2 / 3)
    assert likely[1, 1] == pytest.approx(1 / 3)
    # Nobody is left to differ, or nobody does.
    np.testing.assert_array_equal(places_in_dispute(masks, [0, 1, 2]), places_about(masks))
    np.testing.assert_array_equal(places_in_dispute(masks[[0, 0]], [0]), places_about(masks[:1]))


@pytest.mark.parametrize("clinician", [RANDOM_SELECT, CLINICIAN_DISAGREEMENT])
def test_who_does_not_look_for_errors_clicks_where_raters_are_with_the_true_side(
    clinician: Clinician,
) -> None:
    masks = np.stack([disc((SIZE, SIZE), (20, 20), radius) for radius in (7, 11)])
    wanted, rng = torch.from_numpy(masks[1]), np.random.default_rng(0)
    before = clinician.before(masks, [1])
    for _ in range(20):
        reaction = before.reacts(wanted, wanted[None], wanted, rng)
        assert isinstance(reaction, Click)
        assert bool(wanted[reaction.place]) == reaction.foreground
        if clinician is CLINICIAN_DISAGREEMENT:
            assert masks[0][reaction.place] != masks[1][reaction.place]


def test_clicks_painted_in_change_a_fixed_network_where_they_are() -> None:
    wanted = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 10))
    said = torch.full((SIZE, SIZE), -0.1)
    player = FixedPlayer(lambda _: said, honours=True)
    trace = player.play(torch.zeros(1, SIZE, SIZE), wanted, CLICKS, 3, np.random.default_rng(0))
    assert trace.dice[0] == 0
    assert trace.dice[3] > trace.dice[1] > 0


def test_a_picking_player_never_gets_worse_with_an_oracle() -> None:
    wanted = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 10))

    def draw(_: torch.Tensor, seed: int) -> torch.Tensor:
        radii = np.random.default_rng(seed).uniform(5, 14, 6)
        return torch.stack([20.0 * torch.from_numpy(disc((SIZE, SIZE), (20, 20), r)) - 10 for r in radii])

    clinician = Clinician("oracle", ORACLE, "picks")
    trace = PickingPlayer(draw).play(
        torch.zeros(1, SIZE, SIZE), wanted, clinician, 4, np.random.default_rng(1)
    )
    assert list(trace.dice) == sorted(trace.dice)
    assert trace.best_of_samples >= trace.best_of_candidates


def offers_discs(_: torch.Tensor, seed: int) -> torch.Tensor:
    radii = np.random.default_rng(seed).uniform(5, 9, 6)
    return torch.stack([20.0 * torch.from_numpy(disc((SIZE, SIZE), (20, 20), r)) - 10 for r in radii])


def test_picks_and_painted_clicks_together_go_beyond_what_is_offered() -> None:
    # A part that no sample has.
    wanted = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 9) | disc((SIZE, SIZE), (33, 33), 3))

    def plays(player: PickingPlayer, clinician: Clinician) -> tuple[float, ...]:
        image, rng = torch.zeros(1, SIZE, SIZE), np.random.default_rng(1)
        return player.play(image, wanted, clinician, 6, rng).dice

    picking = plays(PickingPlayer(offers_discs), PICKS)
    both = plays(PickingPlayer(offers_discs, honours=True), EITHER)
    assert max(picking) < 0.95
    assert both[-1] > picking[-1]
    # Clicks are nothing to a player that does not honour them.
    assert len(set(plays(PickingPlayer(offers_discs), CLICKS))) == 1
    noisy = plays(PickingPlayer(offers_discs, honours=True), NOISY_EITHER)
    assert len(noisy) == 7
    assert noisy != both


def test_a_noisy_clinician_may_paint_clicks_in() -> None:
    wanted = torch.from_numpy(disc((SIZE, SIZE), (20, 20), 10))
    player = FixedPlayer(lambda _: torch.full((SIZE, SIZE), -0.1), honours=True)
    image = torch.zeros(1, SIZE, SIZE)
    oracle, noisy = (
        player.play(image, wanted, clinician, 6, np.random.default_rng(0)).dice
        for clinician in (CLICKS, NOISY_CLICKS)
    )
    assert noisy[-1] > 0
    assert noisy != oracle


def test_two_empty_masks_agree() -> None:
    empty = torch.zeros(3, 3, dtype=torch.bool)
    assert dice(empty, empty) == 1.0
