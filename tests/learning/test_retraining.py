"""A challenger goes on from the champion, learns what is new, and keeps what is old, through any interruption."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import nibabel as nib
import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.calibrate import calibrate
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import DivergedError
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.imaging.dataset import BrokenDatasetError, Case
from overread.imaging.volumes import read_labelmap, read_volume
from overread.learning.central import CentralData
from overread.learning.options import DEFAULT_MINUTES_CPU, RetrainingOptions
from overread.learning.retraining import retrain
from overread.learning.training_set import TrainingSet, patient_key, training_set
from support.champions import local_balls, train_champion
from support.datasets import AFFINE, write_balls
from support.interruptions import finished_and_begun

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# float32 on one core: the same numbers every time.
EXACT = RetrainingOptions(iterations=30, device="cpu", precision="float32", threads=1)
FEW = replace(EXACT, iterations=3)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CentralData]:
    """Two members of six central cases; two more were held out."""
    folder = tmp_path_factory.mktemp("champion")
    return train_champion(write_balls(folder / "data", 8), folder)


@pytest.fixture(scope="module")
def cases(champion: tuple[Path, CentralData], tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Six local cases, one of them protected."""
    return training_set(*champion, local_balls(tmp_path_factory.mktemp("local"), 6, protected=1))


@pytest.fixture(scope="module")
def retrained(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TrainingProgress]]:
    """A finished challenger and everything that was told."""
    told: list[TrainingProgress] = []
    return retrain(champion[0], cases, tmp_path_factory.mktemp("work"), EXACT, told.append), told


def weights(folder: Path, member: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"member_{member}.pt", weights_only=True)


def test_statistics_that_the_champion_does_not_keep_cannot_be_adapted(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="ball normalises by instance and keeps no batch statistics"):
        retrain(champion[0], cases, tmp_path, replace(FEW, adabn=True))
    with pytest.raises(BadInputError, match="ball normalises by instance and keeps no batch statistics"):
        retrain(champion[0], cases, tmp_path, replace(FEW, apart=True))


def same(first: Path, second: Path, member: int) -> bool:
    one, other = weights(first, member), weights(second, member)
    return all(torch.equal(one[name], other[name]) for name in one)


def dice_on(folder: Path, cases: list[Case]) -> float:
    ensemble = load_ensemble(folder)
    found = []
    for case in cases:
        said = predict(ensemble, read_volume(case.channels)).labels
        truth, _ = read_labelmap(case.label)
        found.append(2 * ((said > 0) & (truth > 0)).sum() / ((said > 0).sum() + (truth > 0).sum()))
    return float(np.mean(found))


def trained_on(cases: TrainingSet) -> list[Case]:
    return [case for case in cases.dataset.cases if case.id in cases.central - cases.protected]


def inverted(cases: TrainingSet, folder: Path) -> TrainingSet:
    """The same set with local images whose balls are dark."""
    folder.mkdir()
    changed = []
    for case in cases.dataset.cases:
        if case.id in cases.local:
            image = nib.load(case.channels[0]).get_fdata()  # type: ignore[attr-defined]
            path = folder / f"{case.id}.nii.gz"
            nib.save(nib.Nifti1Image((24 - image).astype(np.float32), AFFINE), path)
            case = replace(case, channels=(path,))
        changed.append(case)
    return replace(cases, dataset=replace(cases.dataset, cases=tuple(changed)))


# What is learnt.


@pytest.mark.parametrize("iterations", [1, 4])
def test_the_first_steps_lose_nothing(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path, iterations: int
) -> None:
    before = dice_on(champion[0], trained_on(cases))
    assert before > 0.6
    challenger = retrain(champion[0], cases, tmp_path, replace(EXACT, iterations=iterations))
    assert dice_on(challenger, trained_on(cases)) > before - 0.02
    assert not same(challenger, champion[0], 0)


def test_each_member_goes_on_from_its_own_weights(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    challenger = retrain(champion[0], cases, tmp_path, replace(EXACT, iterations=1, rate_factor=1e-9))
    for member in range(2):
        before, after = weights(champion[0], member), weights(challenger, member)
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert not torch.allclose(
        weights(challenger, 0)["input_block.conv1.conv.weight"],
        weights(champion[0], 1)["input_block.conv1.conv.weight"],
        atol=1e-3,
    )


def test_what_is_new_is_learnt_and_what_is_old_is_kept(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    """Local balls are dark where central ones are bright: without replay the old ones are forgotten."""
    dark = inverted(cases, tmp_path / "dark")
    protected = [case for case in dark.dataset.cases if case.id == "local-ball_00"]
    assert dice_on(champion[0], protected) < 0.3
    options = replace(EXACT, iterations=80, rate_factor=1.0)
    both = retrain(champion[0], dark, tmp_path / "both", options)
    assert dice_on(both, protected) > 0.6
    assert dice_on(both, trained_on(dark)) > 0.6
    forgetful = retrain(champion[0], dark, tmp_path / "forgetful", replace(options, replay_share=0.0))
    assert dice_on(forgetful, trained_on(dark)) < dice_on(both, trained_on(dark)) - 0.1


def test_from_scratch_nothing_of_the_champion_is_left(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    challenger = retrain(champion[0], cases, tmp_path, replace(FEW, start="scratch"))
    assert dice_on(challenger, trained_on(cases)) < dice_on(champion[0], trained_on(cases)) - 0.2
    plan = read_description(challenger)["plan"]
    assert plan["features"] == read_description(champion[0])["plan"]["features"]


def test_a_few_labelled_slices_are_learnt_from(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    changed = []
    for case in cases.dataset.cases:
        if case.id in cases.local:
            label, _ = read_labelmap(case.label)
            middle = int(np.argmax(label.sum(axis=(1, 2))))
            part = np.full(label.shape, IGNORE, np.uint8)
            part[middle : middle + 2] = label[middle : middle + 2]
            path = tmp_path / "parts" / f"{case.id}.nii.gz"
            nib.save(nib.Nifti1Image(part, AFFINE), path)
            case = replace(case, label=path)
        changed.append(case)
    partial = replace(cases, dataset=replace(cases.dataset, cases=tuple(changed)))
    challenger = retrain(champion[0], partial, tmp_path / "work", EXACT)
    assert dice_on(challenger, trained_on(cases)) > dice_on(champion[0], trained_on(cases)) - 0.02
    assert calibrate(challenger, partial.dataset) is not None


# What is told and written.


def test_progress_tells_the_dice_on_training_patches(retrained: tuple[Path, list[TrainingProgress]]) -> None:
    told = retrained[1]
    assert list(dict.fromkeys(now.stage for now in told)) == ["checking", "preparing", "training"]
    assert all(now.training_dice is None for now in told if now.stage != "training")
    assert told[-1].share == 1
    assert told[-1].training_dice is not None
    assert 0.5 < told[-1].training_dice <= 1


def test_the_challenger_names_exactly_what_each_member_has_not_seen(
    retrained: tuple[Path, list[TrainingProgress]], cases: TrainingSet
) -> None:
    held_out = read_description(retrained[0])["plan"]["held_out"]
    for member, ids in enumerate(held_out):
        assert ids == sorted(case for case, who in cases.unseen.items() if member in who)
        learnt = cases.learnt_by(member, cases.local | cases.central)
        assert sorted([*ids, *learnt]) == [
            case.id for case in sorted(cases.dataset.cases, key=lambda c: c.id)
        ]
    assert "local-ball_00" in held_out[0]
    assert "local-ball_00" in held_out[1]
    assert set(cases.protected) <= set(held_out[0])


def test_it_is_calibrated_and_carries_the_next_round(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    challenger = retrain(champion[0], cases, tmp_path / "work", FEW)
    assert calibrate(challenger, cases.dataset) is not None
    again = training_set(challenger, champion[1], local_balls(tmp_path / "local", 7, protected=1))
    for case, who in cases.unseen.items():
        assert again.unseen[case] == who
    second = retrain(challenger, again, tmp_path / "second", FEW)
    assert read_description(second)["parent"] == read_description(challenger)["identity"]


def test_identity_covers_parent_data_and_options(
    retrained: tuple[Path, list[TrainingProgress]], champion: tuple[Path, CentralData], cases: TrainingSet
) -> None:
    description = read_description(retrained[0])
    assert description["name"] == "ball"
    assert description["parent"] == read_description(champion[0])["identity"]
    assert description["retraining"]["iterations"] == 30
    assert description["data"]["central"].keys() == cases.central
    assert description["data"]["local"].keys() == cases.local
    case = next(case for case in cases.dataset.cases if case.id == "local-ball_03")
    assert description["data"]["local"]["local-ball_03"] == {
        "images": [hashlib.sha256(case.channels[0].read_bytes()).hexdigest()],
        "label": hashlib.sha256(case.label.read_bytes()).hexdigest(),
    }
    facts = description["plan"]["training"]
    assert (facts["central"], facts["local"], facts["protected"]) == (8, 6, 3)
    assert [member["cases"] for member in facts["members"]] == [
        len(cases.learnt_by(member, cases.local | cases.central)) for member in range(2)
    ]


def test_who_learnt_from_whom_is_carried_on_without_names(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    first = retrain(champion[0], cases, tmp_path / "first", FEW)
    learnt = read_description(first)["plan"]["learnt"]
    for member in range(2):
        names = {cases.patients[case] for case in cases.learnt_by(member, cases.local)}
        assert learnt[member] == sorted(map(patient_key, names))
    assert "patient 3" not in (first / "ensemble.json").read_text()
    nothing = training_set(first, champion[1], [])
    second = retrain(first, nothing, tmp_path / "second", FEW)
    assert read_description(second)["plan"]["learnt"] == learnt
    scratch = retrain(first, nothing, tmp_path / "scratch", replace(FEW, start="scratch"))
    assert read_description(scratch)["plan"]["learnt"] == [[], []]


def test_the_champion_is_only_read(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in champion[0].iterdir()}
    retrain(champion[0], cases, tmp_path, FEW)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in champion[0].iterdir()}
    assert after == before


# Interruptions.


CHILD = """
import json, sys
from pathlib import Path
from overread.learning.central import read_central
from overread.learning.options import RetrainingOptions
from overread.learning.retraining import (retrain)
from overread.learning.training_set import LocalCase, training_set
champion, recipe, work = map(Path, sys.argv[1:4])
local = [
    LocalCase(id, tuple(map(Path, channels)), Path(label), patient, protected)
    for id, channels, label, patient, protected in json.loads(sys.argv[4])
]
options = RetrainingOptions(
    iterations=30, device="cpu", precision="float32", threads=1, checkpoint_every_s=0.0
)
retrain(champion, training_set(champion, read_central(recipe), local), work, options)
"""


def test_killed_it_goes_on_where_it_was(
    champion: tuple[Path, CentralData],
    cases: TrainingSet,
    retrained: tuple[Path, list[TrainingProgress]],
    tmp_path: Path,
) -> None:
    local = [
        (
            case.id.removeprefix("local-"),
            [str(path) for path in case.channels],
            str(case.label),
            cases.patients[case.id],
            case.id in cases.protected,
        )
        for case in cases.dataset.cases
        if case.id in cases.local
    ]
    recipe = champion[0].parents[1] / "ball"
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(champion[0]), str(recipe), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    with subprocess.Popen([*command, json.dumps(local)], env=environment) as child:
        while not all(finished_and_begun(tmp_path)):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        child.kill()
    assert not (tmp_path / "ensemble").exists()
    (first,), _ = finished_and_begun(tmp_path)
    finished = (tmp_path / f"member_{first}.pt").stat().st_mtime_ns
    told: list[TrainingProgress] = []
    folder = retrain(champion[0], cases, tmp_path, EXACT, told.append)
    assert (tmp_path / f"member_{first}.pt").stat().st_mtime_ns == finished
    assert min(now.share for now in told if now.stage == "training") > 0.5
    for member in (0, 1):
        assert same(folder, retrained[0], member)


def test_asked_to_stop_it_ends_soon_and_goes_on_later(
    champion: tuple[Path, CentralData],
    cases: TrainingSet,
    retrained: tuple[Path, list[TrainingProgress]],
    tmp_path: Path,
) -> None:
    stop = Event()

    def heard(now: TrainingProgress) -> None:
        if now.stage == "training":
            stop.set()

    with pytest.raises(StoppedError, match=r"stopped after \d+% of it; started again, it goes on from there"):
        retrain(champion[0], cases, tmp_path, EXACT, heard, stop)
    assert not (tmp_path / "ensemble").exists()
    kept = torch.load(tmp_path / "member_0.checkpoint.pt", weights_only=True)
    assert kept["iteration"] == 1
    assert kept["dice"] is not None
    folder = retrain(champion[0], cases, tmp_path, EXACT)
    for member in (0, 1):
        assert same(folder, retrained[0], member)


def test_asked_to_stop_while_it_reads_it_has_lost_nothing(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(StoppedError, match="stopped while it read the cases"):
        retrain(champion[0], cases, tmp_path, EXACT, stop=stop)


def test_a_finished_retraining_is_not_repeated(
    champion: tuple[Path, CentralData], cases: TrainingSet, retrained: tuple[Path, list[TrainingProgress]]
) -> None:
    told: list[TrainingProgress] = []
    assert retrain(champion[0], cases, retrained[0].parent, EXACT, told.append) == retrained[0]
    assert {now.stage for now in told} == {"checking"}


def test_with_other_cases_members_start_over_and_prepared_cases_are_used_again(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    first = retrain(champion[0], cases, tmp_path / "work", FEW)
    identity = read_description(first)["identity"]
    prepared = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "cases").rglob("*.npy")}
    # Central and local cases that are learnt from, three files each.
    assert len(prepared) == 3 * (6 + 5)

    more = training_set(*champion, local_balls(tmp_path / "local", 7, protected=1))
    second = retrain(champion[0], more, tmp_path / "work", FEW)
    assert read_description(second)["identity"] != identity
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "cases").rglob("*.npy")}
    assert len(now) == 3 * (6 + 6)
    assert prepared.items() <= now.items()

    # A label that was corrected again is prepared again, and the old one goes.
    label, _ = read_labelmap(tmp_path / "local" / "labelsTr" / "ball_06.nii.gz")
    nib.save(
        nib.Nifti1Image(np.roll(label, 1, 0).astype(np.uint8), AFFINE),
        tmp_path / "local" / "labelsTr" / "ball_06.nii.gz",
    )
    retrain(champion[0], more, tmp_path / "work", FEW)
    last = set((tmp_path / "work" / "cases").rglob("*.npy"))
    assert len(last) == len(now)
    assert {path.name.split(".")[0] for path in last ^ now.keys()} == {"local-ball_06"}


# Refusals.


def test_numbers_that_are_not_finite_end_it_and_leave_nothing_to_go_on_from(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    options = replace(EXACT, rate_factor=1e30)
    with pytest.raises(DivergedError, match=r"member 0: the loss became nan at iteration \d+; try precision"):
        retrain(champion[0], cases, tmp_path, options)
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]


def test_weights_that_are_not_finite_never_become_a_challenger(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    options = replace(EXACT, iterations=1, rate_factor=float("inf"))
    with pytest.raises(DivergedError, match="member 0: weights became infinite or NaN by iteration 1"):
        retrain(champion[0], cases, tmp_path, options)
    assert not (tmp_path / "ensemble").exists()


def test_other_kinds_are_refused_with_a_sentence(
    champion: tuple[Path, CentralData], cases: TrainingSet, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    description = read_description(champion[0])
    for name in description["members"]:
        (tmp_path / "other" / name).write_bytes((champion[0] / name).read_bytes())
    write_description(tmp_path / "other", {**description, "kind": "bundle"})
    with pytest.raises(BadInputError, match="model ball is of kind bundle, and only models that"):
        retrain(tmp_path / "other", cases, tmp_path / "work", EXACT)


def test_a_broken_local_case_is_named_before_anything_is_trained(
    champion: tuple[Path, CentralData], tmp_path: Path
) -> None:
    local = local_balls(tmp_path / "local", 2)
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), 7, np.uint8), AFFINE), local[1].label)
    with pytest.raises(
        BrokenDatasetError, match=r"local-ball_01 \| ball_01\.nii\.gz \| holds class values \[7\]"
    ):
        retrain(champion[0], training_set(*champion, local), tmp_path / "work", EXACT)
    local[0].label.unlink()
    with pytest.raises(BadInputError, match=r"ball_00\.nii\.gz of case local-ball_00 went missing"):
        retrain(champion[0], training_set(*champion, local), tmp_path / "work", EXACT)


def test_nothing_to_learn_from_is_refused(champion: tuple[Path, CentralData], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a member has no case to learn from"):
        retrain(champion[0], training_set(*champion, []), tmp_path, replace(EXACT, replay_share=0.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "middle"}, "start 'middle' is not known; use champion or scratch"),
        ({"replay_share": 1.5}, "replay_share is 1.5, expected 0 to 1"),
        ({"rate_factor": 0.0}, "rate_factor is 0.0, expected more than 0"),
        ({"rate_factor": float("nan")}, "rate_factor is nan, expected more than 0"),
        ({"iterations": 0}, "iterations is 0, expected more than 0"),
        ({"minutes": -1.0}, "minutes is -1.0, expected more than 0"),
        ({"clock": "sun"}, "clock 'sun' is not known"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        RetrainingOptions(**wrong)


# Budgets and batches.


def test_whoever_says_nothing_waits_a_few_minutes_on_the_cpu() -> None:
    assert RetrainingOptions(device="cpu").budget(3).minutes == DEFAULT_MINUTES_CPU
    assert RetrainingOptions(device="cpu", iterations=5).budget(3).minutes is None
    assert RetrainingOptions(device="cpu", start="scratch").budget(3).minutes is None


def test_patches_are_drawn_by_share_and_the_same_again() -> None:
    lesson = Lesson((Pool(("central",), 0.25), Pool(("here", "there"), 0.75)))
    drawn = [lesson.draw(torch.Generator().manual_seed(seed)) for seed in range(2000)]
    assert drawn.count("central") / 2000 == pytest.approx(0.25, abs=0.03)
    assert drawn.count("here") / 2000 == pytest.approx(0.375, abs=0.03)
    assert drawn == [lesson.draw(torch.Generator().manual_seed(seed)) for seed in range(2000)]


def test_kept_apart_the_patches_of_a_step_are_of_one_pool() -> None:
    lesson = Lesson((Pool(("a", "b"), 0.5), Pool(("c",), 0.25), Pool(("d", "e"), 0.25)), apart=True)
    generator = torch.Generator().manual_seed(0)
    pools = [lesson.draw_pool(generator) for _ in range(2000)]
    for pool in lesson.pools:
        assert pools.count(pool) / 2000 == pytest.approx(pool.share, abs=0.03)
        assert {lesson.draw(generator, pool) for _ in range(50)} == {*pool.cases}
