"""A MedUHIP model is learnt from several raters, or from one and pseudo-raters, through interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.calibrate import calibrate_on
from overread.ensemble.ensemble import Calibration
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.imaging.dataset import BrokenDatasetError, read_dataset
from overread.imaging.rated import read_rated
from overread.meduhip.lessons import Lessons, RatedLessons, SingleLessons, draw_pseudo_raters, pseudo_labels
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.session import answer, begin
from overread.meduhip.storage import MEMBERS, load_reader
from overread.meduhip.teach import Wishes, teach
from overread.raters.pseudo import Style
from support.champions import TAUGHT
from support.datasets import write_balls, write_description, write_nifti_case
from support.rated import disc, write_rated, write_volume

ROOT = Path(__file__).parents[2]
PATCH = {"patch": (32, 32), "batch": 2}


def wishes(iterations: int = 2, **changes: Any) -> Wishes:
    return Wishes.of(TAUGHT, iterations=iterations, device="cpu", threads=1, **changes)


def write_discs(folder: Path, cases: int = 5, raters: int = 3) -> Path:
    """Pictures of a disc; rater r draws it with radius 6 + r. Cases 0 and 1 are one patient's."""
    shape = (32, 32)
    image = (40 + 100 * disc(shape, (16, 16), 7)).astype(np.uint8)
    masks = {
        f"case{number}": {f"r{rater}": disc(shape, (16, 16), 6 + rater) for rater in range(raters)}
        for number in range(cases)
    }
    write_rated(folder, masks, image)
    rows = [f"case{number},{'anna' if number < 2 else number}" for number in range(cases)]
    (folder / "patients.csv").write_text("\n".join(["case,patient", *rows]))
    return folder


def rated(folder: Path) -> RatedLessons:
    return RatedLessons(read_rated(folder), "disc")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"))


def calibrated(folder: Path, lessons: Lessons) -> Calibration | None:
    return calibrate_on(folder, lessons.name, lessons.patients, lessons.judged)


def weights(work: Path) -> Mapping[str, torch.Tensor]:
    return torch.load(work / "ensemble" / "member_0.pt", weights_only=True)


def test_several_raters_teach_a_model_that_answers_and_is_calibrated(discs: Path, tmp_path: Path):
    told: list[TrainingProgress] = []
    lessons = rated(discs)
    folder = teach("disc", lessons, tmp_path / "work", wishes(), plan_overrides=PATCH, progress=told.append)
    assert list(dict.fromkeys(now.stage for now in told)) == [
        "checking",
        "measuring",
        "preparing",
        "training",
    ]
    facts = read_description(folder)["plan"]["training"]
    assert facts["raters"] == ["r0", "r1", "r2"]
    assert facts["iterations"] == 2
    # Patients are held out as a whole.
    assert facts["held_out"] in (["case0", "case1"], ["case2"], ["case3"], ["case4"])
    calibration = calibrated(folder, lessons)
    assert calibration is not None
    assert calibration.bands["mutual_information"].cases == len(facts["held_out"])
    reader = load_reader(folder)
    assert reader.classes == ("background", "disc")
    assert reader.calibration == calibration
    volume, _ = lessons.read("case0")
    given = answer(reader.model, reader.open(volume), begin(reader.model, "case0", reader.identity))
    assert given.logits.shape == (32, 32)
    prediction = predict(load_ensemble(folder), volume)
    assert prediction.labels.shape == (32, 32)


def test_what_most_raters_say_is_what_predictions_are_held_to(discs: Path):
    lessons = rated(discs)
    _, labels = lessons.read("case0")
    assert labels.shape == (3, 32, 32)
    _, judged = lessons.judged("case0")
    assert np.array_equal(judged == 1, disc((32, 32), (16, 16), 7))


def test_two_raters_leave_open_what_they_disagree_about(tmp_path: Path):
    lessons = rated(write_discs(tmp_path, raters=2))
    _, judged = lessons.judged("case0")
    assert np.array_equal(judged == IGNORE, disc((32, 32), (16, 16), 7) & ~disc((32, 32), (16, 16), 6))


def test_the_store_holds_what_each_rater_said(discs: Path, tmp_path: Path):
    teach("disc", rated(discs), tmp_path, wishes(1), plan_overrides=PATCH)
    store = RatedStore(tmp_path / "cases")
    generator = torch.Generator().manual_seed(0)
    _, codes = store.sample("case3", (32, 32), generator, on_foreground=False)
    said = store.raters("case3", codes).numpy()
    assert [int(mask.sum()) for mask in said] == [
        int(disc((32, 32), (16, 16), 6 + r).sum()) for r in range(3)
    ]


def test_volumes_of_several_raters_are_taught_where_they_lie(tmp_path: Path):
    # The first axis runs to the left.
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    for number in range(2):
        image = np.random.default_rng(number).normal(10, 1, (18, 18, 18)).astype(np.float32)
        ball = disc(image.shape, (5, 9, 9), 4)
        write_volume(tmp_path / "data" / "images" / f"case{number}.nii.gz", image + 5 * ball, affine)
        for rater in (0, 1):
            mask = disc(image.shape, (5, 9, 9), 4 + rater)
            write_volume(tmp_path / "data" / "masks" / f"case{number}_r{rater}.nii.gz", mask, affine)
    lessons = RatedLessons(read_rated(tmp_path / "data"), "ball")
    plan = {"patch": (32, 16, 16), "batch": 1}
    folder = teach("ball", lessons, tmp_path / "work", wishes(1), plan_overrides=plan)
    assert read_description(folder)["plan"]["meduhip"]["backend"] == "unet3d"
    label = np.load(tmp_path / "work" / "cases" / "case0.label.npy")
    # Turned to run to the right: the ball is on the other side.
    assert np.argwhere(label > 1)[:, 0].mean() == pytest.approx(17 - 5, abs=0.5)
    # Two cases are too few to keep one.
    assert calibrated(folder, lessons) is None


def test_one_rater_and_several_classes_are_taught_by_pseudo_raters(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(4):
        label = disc((18, 18, 18), (6, 9, 9), 4).astype(np.uint8)
        label[disc((18, 18, 18), (13, 9, 9), 3)] = 2
        image = rng.normal(10, 1, label.shape).astype(np.float32) + 5 * label
        write_nifti_case(tmp_path / "data", f"case{number}", [image], label)
    write_description(tmp_path / "data", 4, labels={"background": 0, "large": 1, "small": 2})
    lessons = SingleLessons(read_dataset(tmp_path / "data"))
    plan = {"patch": (32, 16, 16), "batch": 1}
    folder = teach("balls", lessons, tmp_path / "work", wishes(2), plan_overrides=plan)
    description = read_description(folder)
    assert description["classes"] == ["background", "large", "small"]
    assert len(description["plan"]["training"]["pseudo_raters"]) == 5
    assert description["plan"]["held_out"] == [description["plan"]["training"]["held_out"]] * MEMBERS
    calibration = calibrated(folder, lessons)
    assert calibration is not None
    assert calibration.bands["variance"].cases == 1
    # The first pseudo-rater is the reference itself.
    _, labels = lessons.read("case0")
    assert np.array_equal(labels[0], lessons.judged("case0")[1])


def test_one_rater_in_a_layout_of_several_gets_pseudo_raters(tmp_path: Path):
    lessons = rated(write_discs(tmp_path, raters=1))
    _, labels = lessons.read("case0")
    assert labels.shape == (5, 32, 32)
    assert len(lessons.facts()["pseudo_raters"]) == 5


def test_a_pseudo_rater_draws_all_classes_in_one_style_and_takes_no_voxel_from_another():
    label = np.zeros((12, 4), np.uint8)
    label[2:5], label[6:9] = 1, 2
    said = pseudo_labels(label, (1, 1), [Style(), Style(offset_mm=1), Style(offset_mm=2)], 3)
    assert np.array_equal(said[0], label)
    # Both want the gap between them; the first class gets it.
    assert said[1, :, 0].tolist() == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert said[2, :, 0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]


def test_styles_are_the_same_for_the_same_seed():
    assert draw_pseudo_raters(3) == draw_pseudo_raters(3)
    assert draw_pseudo_raters(3) != draw_pseudo_raters(4)
    assert draw_pseudo_raters(3)[0] == Style()


def test_stopped_it_goes_on_and_learns_what_it_learns_in_one_go(discs: Path, tmp_path: Path):
    teach("disc", rated(discs), tmp_path / "whole", wishes(4), plan_overrides=PATCH)
    stop, work = Event(), tmp_path / "work"

    def heard(now: TrainingProgress) -> None:
        if now.stage == "training":
            stop.set()

    with pytest.raises(StoppedError, match="started again, it goes on"):
        teach("disc", rated(discs), work, wishes(4), plan_overrides=PATCH, progress=heard, stop=stop)
    assert not (work / "ensemble").exists()
    teach("disc", rated(discs), work, wishes(4), plan_overrides=PATCH)
    whole, resumed = weights(tmp_path / "whole"), weights(work)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from meduhip.test_teach import PATCH, rated, wishes
from overread.meduhip.teach import teach
wanted = wishes(10_000, checkpoint_every_s=0.001)
teach("disc", rated(Path(sys.argv[1])), Path(sys.argv[2]), wanted, plan_overrides=PATCH)
"""


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(discs: Path, tmp_path: Path):
    work = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(discs), str(work), str(ROOT / "tests")]
    with subprocess.Popen(command, env=environment) as child:
        while not (work / "model.checkpoint.pt").exists():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        child.kill()
    assert not (work / "ensemble").exists()
    reached = torch.load(work / "model.checkpoint.pt", weights_only=True)["iteration"]
    assert 0 < reached < 10_000
    with pytest.raises(BadInputError, match=r"something else .*iterations: 10000 before, 2 now.*restart"):
        teach("disc", rated(discs), work, wishes(2), plan_overrides=PATCH)
    # As if it had been asked for a step more than it had done.
    session = json.loads((work / "session.json").read_text())
    (work / "session.json").write_text(json.dumps(session | {"iterations": reached + 1}))
    folder = teach("disc", rated(discs), work, wishes(reached + 1), plan_overrides=PATCH)
    assert read_description(folder)["plan"]["training"]["iterations"] == reached + 1
    load_reader(folder)


def test_a_half_written_model_is_made_anew(discs: Path, tmp_path: Path):
    (tmp_path / "work").mkdir()
    teach("disc", rated(discs), tmp_path / "work", wishes(1), plan_overrides=PATCH)
    finished = tmp_path / "work" / "ensemble"
    (finished / "ensemble.json").unlink()
    finished.rename(tmp_path / "work" / ".ensemble")
    teach("disc", rated(discs), tmp_path / "work", wishes(1), plan_overrides=PATCH)
    load_reader(finished)
    # Finished, it is only handed out.
    made = (finished / "ensemble.json").stat().st_mtime_ns
    teach("disc", rated(discs), tmp_path / "work", wishes(1), plan_overrides=PATCH)
    assert (finished / "ensemble.json").stat().st_mtime_ns == made


def test_other_data_under_the_same_work_folder_are_refused_and_restart_begins_anew(tmp_path: Path):
    data, work = write_discs(tmp_path / "data"), tmp_path / "work"
    teach("disc", rated(data), work, wishes(1), plan_overrides=PATCH)
    write_discs(tmp_path / "data", cases=6)
    with pytest.raises(BadInputError, match="cases: 5 before, 6 now; files: "):
        teach("disc", rated(data), work, wishes(1), plan_overrides=PATCH)
    folder = teach("disc", rated(data), work, wishes(1), plan_overrides=PATCH, restart=True)
    assert read_description(folder)["plan"]["training"]["cases"] == 6


def test_broken_cases_are_told_together_and_nothing_is_trained(tmp_path: Path):
    data = write_discs(tmp_path / "data")
    (data / "images" / "case1.png").write_bytes(b"no picture")
    (data / "masks" / "case2_r0.png").write_bytes(b"no picture")
    with pytest.raises(BrokenDatasetError, match="has 2 problems") as error:
        teach("disc", rated(data), tmp_path / "work", wishes(1))
    assert {problem.case for problem in error.value.problems} == {"case1", "case2"}
    assert not (tmp_path / "work" / "plan.json").exists()


def test_voxels_that_nobody_labelled_are_refused(tmp_path: Path):
    write_balls(tmp_path, 2)
    lessons = SingleLessons(read_dataset(tmp_path))
    case = lessons.dataset.cases[0]
    label = np.zeros((16, 16, 16), np.uint8)
    label[0] = IGNORE
    write_volume(case.label, label)
    with pytest.raises(BadInputError, match=f"case {case.id} has voxels that nobody labelled"):
        lessons.read(case.id)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"widht": 4}, "a MedUHIP recipe has no 'widht'; it has backend, width"),
        ({"structures": 2}, "has no 'structures'"),
        ({"episode": {"turn": 2}}, "an episode has no 'turn'; it has turns"),
    ],
)
def test_wishes_that_nobody_can_fulfil_are_refused(said: dict, message: str):
    with pytest.raises(BadInputError, match=message):
        Wishes.of(said)


def test_the_command_goes_before_the_recipe():
    made = Wishes.of({"iterations": 7, "width": 5}, iterations=3, minutes=None)
    assert made.options.iterations == 3
    assert made.network == {"width": 5}


def test_what_does_not_fit_the_images_is_refused(discs: Path, tmp_path: Path):
    with pytest.raises(
        BadInputError, match="backend unet3d is for 3-D images, these are 2-D; use unet2d, sam"
    ):
        teach("disc", rated(discs), tmp_path / "a", Wishes.of({**TAUGHT, "backend": "unet3d"}, device="cpu"))
    with pytest.raises(BadInputError, match="a plan has no 'patches'"):
        teach("disc", rated(discs), tmp_path / "b", wishes(), plan_overrides={"patches": (32, 32)})
    with pytest.raises(BadInputError, match="validation_share is 1"):
        teach("disc", rated(discs), tmp_path / "c", wishes(), validation_share=1)
    write_balls(tmp_path / "data", 2)
    lessons = SingleLessons(read_dataset(tmp_path / "data"))
    lessons.classes = tuple(map(str, range(256)))
    with pytest.raises(BadInputError, match="256 classes do not fit 8 bits; at most 255 are trained"):
        teach("disc", lessons, tmp_path / "d", wishes())
