"""Training learns, tells where it stands, survives being killed, and never mixes two trainings."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, OverreadError
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.ensemble.training import TrainingOptions, TrainingProgress, hold_out, train_ensemble
from overread.imaging.dataset import BrokenDatasetError, read_dataset
from overread.imaging.volumes import read_labelmap, read_volume
from support.datasets import write_balls, write_colour_discs, write_description
from support.interruptions import finished_and_begun

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = {"features": (8, 16, 32)}
# float32 on one core: the same numbers every time.
EXACT = TrainingOptions(members=2, iterations=100, device="cpu", precision="float32", threads=1)


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture(scope="module")
def trained(balls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrainingProgress]]:
    """A finished deep ensemble and everything that its training told."""
    told: list[TrainingProgress] = []
    work = tmp_path_factory.mktemp("work")
    return train_ensemble("ball", read_dataset(balls), work, EXACT, TINY, told.append), told


def weights(folder: Path, member: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"member_{member}.pt", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def dice_on(folder: Path, data: Path, cases: list[str]) -> float:
    ensemble = load_ensemble(folder)
    found = []
    for case in read_dataset(data).cases:
        if case.id in cases:
            said = predict(ensemble, read_volume(case.channels)).labels
            truth, _ = read_labelmap(case.label)
            found.append(2 * ((said > 0) & (truth > 0)).sum() / ((said > 0).sum() + (truth > 0).sum()))
    return float(np.mean(found))


def description(folder: Path) -> dict:
    return json.loads((folder / "ensemble.json").read_text())


def test_finds_balls_that_no_member_saw(trained: tuple[Path, list[TrainingProgress]], balls: Path) -> None:
    folder, _ = trained
    held_out = description(folder)["plan"]["held_out"]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 2
    # A ball fills 7 % of its volume: calling everything or a random part a ball gives 0.12.
    assert dice_on(folder, balls, held_out[0]) > 0.8


def test_tells_what_it_learned_from(trained: tuple[Path, list[TrainingProgress]]) -> None:
    facts = description(trained[0])["plan"]["training"]
    assert facts["cases"] == 10
    assert facts["torch"] == str(torch.__version__)
    for member in facts["members"]:
        assert (member["iterations"], member["cases"]) == (100, 8)
        assert (member["device"], member["precision"]) == ("cpu", "float32")
        assert member["seconds"] > 0
        assert member["loss"][-1] < 0.5 * member["loss"][0]


def test_members_share_cases_but_not_weights(trained: tuple[Path, list[TrainingProgress]]) -> None:
    assert not same(weights(trained[0], 0), weights(trained[0], 1))


def test_progress_goes_from_checking_to_the_end(trained: tuple[Path, list[TrainingProgress]]) -> None:
    told = trained[1]
    stages = list(dict.fromkeys(now.stage for now in told))
    assert stages == ["checking", "measuring", "preparing", "training"]
    training = [now.share for now in told if now.stage == "training"]
    assert training == sorted(training)
    assert training[-1] == 1
    assert told[-1].seconds_left == 0
    assert told[-1].loss is not None


def test_a_finished_training_is_not_repeated(
    trained: tuple[Path, list[TrainingProgress]], balls: Path
) -> None:
    told: list[TrainingProgress] = []
    again = train_ensemble("ball", read_dataset(balls), trained[0].parent, EXACT, TINY, told.append)
    assert again == trained[0]
    assert told == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"members": 3}, "members: 2 before, 3 now"),
        ({"iterations": 99}, "iterations: 100 before, 99 now"),
    ],
)
def test_other_options_are_refused(
    trained: tuple[Path, list[TrainingProgress]], balls: Path, change: dict, message: str
) -> None:
    with pytest.raises(BadInputError, match=f"holds a training of something else .*{message}.*restart"):
        train_ensemble("ball", read_dataset(balls), trained[0].parent, replace(EXACT, **change), TINY)


def test_changed_cases_are_refused_and_restart_begins_anew(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "data", 4)
    options = replace(EXACT, members=1, iterations=2)
    folder = train_ensemble("ball", read_dataset(data), tmp_path / "work", options, TINY)
    before = weights(folder, 0)
    write_balls(data, 5, seed=1)
    with pytest.raises(BadInputError, match="cases: 4 before, 5 now; files: "):
        train_ensemble("ball", read_dataset(data), tmp_path / "work", options, TINY)
    folder = train_ensemble("ball", read_dataset(data), tmp_path / "work", options, TINY, restart=True)
    assert description(folder)["plan"]["training"]["cases"] == 5
    assert not same(before, weights(folder, 0))


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path, balls: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(BadInputError, match="is not empty and holds no training"):
            train_ensemble("ball", read_dataset(balls), tmp_path, EXACT, TINY, restart=restart)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_broken_cases_stop_it_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "data", 3)
    (data / "labelsTr" / "ball_01.nii.gz").unlink()
    with pytest.raises(BrokenDatasetError, match=r"ball_01\.nii\.gz \| label file is missing"):
        train_ensemble("ball", read_dataset(data), tmp_path / "work", EXACT, TINY)
    assert not list((tmp_path / "work").glob("member*"))


CHILD = """
import sys
from pathlib import Path
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
options = TrainingOptions(
    members=2, iterations=100, device="cpu", precision="float32", threads=1, checkpoint_every_s=0.0
)
train_ensemble("ball", read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), options, {"features": (8, 16, 32)})
"""


def test_killed_it_goes_on_where_it_was(
    trained: tuple[Path, list[TrainingProgress]], balls: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(balls), str(work)]
    with subprocess.Popen(command, env=environment) as child:
        # One is finished and the other under way; on a busy machine they take turns, and either may be first.
        while not all(finished_and_begun(work)):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        child.kill()
    assert child.returncode < 0
    assert not (work / "ensemble").exists()
    (first,), (second,) = finished_and_begun(work)
    finished = (work / f"member_{first}.pt").stat().st_mtime_ns
    interrupted = torch.load(work / f"member_{second}.checkpoint.pt", weights_only=True)
    assert 0 < interrupted["iteration"] < 100

    told: list[TrainingProgress] = []
    folder = train_ensemble(
        "ball", read_dataset(balls), work, replace(EXACT, checkpoint_every_s=60), TINY, told.append
    )
    assert (work / f"member_{first}.pt").stat().st_mtime_ns == finished
    assert {now.stage for now in told} == {"preparing", "training"}
    assert min(now.share for now in told if now.stage == "training") > 0.5
    for member in (0, 1):
        assert same(weights(folder, member), weights(trained[0], member))


def test_an_error_ends_it_without_an_ensemble(balls: Path, tmp_path: Path) -> None:
    def lose_patience(now: TrainingProgress) -> None:
        if now.stage == "training":
            raise RuntimeError("the listener broke")

    options = replace(EXACT, threads=2)
    with pytest.raises(RuntimeError, match="the listener broke"):
        train_ensemble("ball", read_dataset(balls), tmp_path / "work", options, TINY, lose_patience)
    assert not (tmp_path / "work" / "ensemble").exists()
    folder = train_ensemble("ball", read_dataset(balls), tmp_path / "work", options, TINY)
    assert len(load_ensemble(folder).members) == 2


def test_members_side_by_side_learn_what_they_learn_alone(
    trained: tuple[Path, list[TrainingProgress]], balls: Path, tmp_path: Path
) -> None:
    threads_before = torch.get_num_threads()
    folder = train_ensemble("ball", read_dataset(balls), tmp_path / "work", replace(EXACT, threads=2), TINY)
    for member in (0, 1):
        assert same(weights(folder, member), weights(trained[0], member))
    assert torch.get_num_threads() == threads_before


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_minutes_end_it_and_are_shared_by_the_members(balls: Path, tmp_path: Path, clock: str) -> None:
    options = TrainingOptions(members=2, minutes=0.02, device="cpu", threads=1, clock=clock)  # type: ignore[arg-type]
    folder = train_ensemble("ball", read_dataset(balls), tmp_path / "work", options, TINY)
    members = description(folder)["plan"]["training"]["members"]
    # 1.2 s for two; the last step may run over.
    assert all(member["seconds"] >= 0.6 and member["iterations"] > 1 for member in members)


def test_folds_hold_out_every_case_once_and_learn_without_it(balls: Path, tmp_path: Path) -> None:
    options = replace(EXACT, members=3, scheme="folds", iterations=2)
    dataset = read_dataset(balls)
    held_out = hold_out(dataset, options)
    assert sorted(case for fold in held_out for case in fold) == [case.id for case in dataset.cases]
    assert sorted(len(fold) for fold in held_out) == [3, 3, 4]
    plan = description(train_ensemble("ball", dataset, tmp_path / "work", options, TINY))["plan"]
    assert plan["held_out"] == held_out
    assert [member["cases"] for member in plan["training"]["members"]] == [
        10 - len(fold) for fold in held_out
    ]


def test_few_cases_are_still_held_out_and_very_few_are_not(balls: Path) -> None:
    dataset = read_dataset(balls)
    few = replace(dataset, cases=dataset.cases[:4])
    assert len(hold_out(few, replace(EXACT, validation_share=0.05))[0]) == 1
    assert hold_out(few, replace(EXACT, validation_share=0.0)) == [[], []]
    assert hold_out(replace(dataset, cases=dataset.cases[:2]), EXACT) == [[], []]
    with pytest.raises(BadInputError, match=r"5 folds need as many cases, dataset .* has 4"):
        hold_out(few, replace(EXACT, members=5, scheme="folds"))


def test_colour_pictures_are_learned(tmp_path: Path) -> None:
    data = write_colour_discs(tmp_path / "data", 8)
    options = replace(EXACT, members=1, precision="auto")
    folder = train_ensemble(
        "disc", read_dataset(data), tmp_path / "work", options, {"features": (8, 16, 32, 32)}
    )
    ensemble = load_ensemble(folder)
    assert ensemble.channels == ("R", "G", "B")
    assert dice_on(folder, data, description(folder)["plan"]["held_out"][0]) > 0.8


def test_a_loss_that_is_no_number_is_told(balls: Path, tmp_path: Path) -> None:
    broken = TINY | {"normalisation": ({"kind": "ct", "lower": 0, "upper": 100, "mean": float("inf")},)}
    with pytest.raises(
        OverreadError, match="member 0: the loss became nan at iteration 0; try precision float32"
    ):
        train_ensemble("ball", read_dataset(balls), tmp_path / "work", EXACT, broken)


def test_cases_whose_files_vanish_are_named(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "data", 2)
    write_description(data, 2, labels={"background": 0, "ball": 1, "cube": 2})
    dataset = read_dataset(data)
    for path in (data / "imagesTr").iterdir():
        path.unlink()
    with pytest.raises(BrokenDatasetError, match="has 2 problems"):
        train_ensemble("ball", dataset, tmp_path / "work", EXACT, TINY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"members": 0}, "an ensemble needs at least 1 member, got 0"),
        ({"members": 1, "scheme": "folds"}, "cross-validation needs at least 2 members"),
        ({"scheme": "bagging"}, "scheme 'bagging' is not known; use deep or folds"),
        ({"iterations": 0}, "iterations is 0, expected more than 0"),
        ({"minutes": -1.0}, "minutes is -1.0, expected more than 0"),
        ({"threads": 0}, "threads is 0, expected more than 0"),
        ({"validation_share": 1.0}, "validation_share is 1.0, expected 0 to below 1"),
        ({"clock": "sun"}, "clock 'sun' is not known; use wall or processor"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        TrainingOptions(**wrong)
