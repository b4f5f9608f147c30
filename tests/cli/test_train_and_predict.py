"""From a folder of cases to a champion and its predictions, by the commands a user types."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.learning.central import read_central

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})
# Voxels that are not cubes, an axis that runs the other way, an origin: nothing that a sloppy grid would survive.
AFFINE = np.array([[-1.5, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 2.0, 7], [0, 0, 0, 1.0]])
SHAPE = (24, 22, 16)


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)


def bright_ball(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise, and where it is."""
    centre = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 3)
    distance = np.linalg.norm((np.indices(SHAPE).T - centre) * [1.5, 1.5, 2.0], axis=-1).T
    labels = (distance < 8).astype(np.uint8)
    return (100 * labels + rng.normal(0, 5, SHAPE)).astype(np.float32), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Dataset001 Balls")
    rng = np.random.default_rng(0)
    for number in range(6):
        image, labels = bright_ball(rng)
        save(folder / "imagesTr" / f"ball{number}_0000.nii.gz", image)
        save(folder / "labelsTr" / f"ball{number}.nii.gz", labels)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Folder of champions after one training, and what the command told."""
    models = tmp_path_factory.mktemp("my models")
    arguments = ["--data", str(data), "--models", str(models), "--members", "2", "--iterations", "30"]
    result = runner.invoke(
        app, ["train", "ball", *arguments, "--device", "cpu", "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.stderr
    return models, json.loads(result.stdout)


def test_training_puts_a_calibrated_champion_into_service(trained: tuple[Path, dict]):
    models, told = trained
    assert (told["model"], told["cases"], told["members"]) == ("ball", 6, 2)
    assert Path(told["folder"]) == models / "ball" / told["champion"]
    assert told["calibration"]["bands"]["predictive_entropy"]["cases"] == 1
    assert not (models / ".training" / "ball").exists()


def test_training_writes_down_where_its_data_are(trained: tuple[Path, dict], data: Path):
    models, told = trained
    central = read_central(models / "ball")
    assert central.folder == data.resolve()
    held_out = json.loads((Path(told["folder"]) / "ensemble.json").read_text())["plan"]["held_out"][0]
    assert list(central.protected) == held_out
    assert sorted([*central.training, *central.protected]) == [f"ball{number}" for number in range(6)]


def test_a_champion_of_an_earlier_version_is_told_where_its_data_are(
    trained: tuple[Path, dict], data: Path, tmp_path: Path
):
    shutil.copytree(trained[0], tmp_path / "models")
    written = tmp_path / "models" / "ball" / "central.json"
    before = written.read_bytes()
    written.unlink()
    command = ["central", "ball", "--data", str(data), "--models", str(tmp_path / "models")]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert "ball learns from 5 cases" in result.stdout
    assert "is judged on 1" in result.stdout
    assert written.read_bytes() == before
    told = json.loads(runner.invoke(app, [*command, "--json"]).stdout)
    assert told == {"model": "ball", "folder": str(data.resolve()), "training": 5, "protected": 1}


def test_data_that_are_not_the_champions_are_refused_in_one_sentence(
    trained: tuple[Path, dict], data: Path, tmp_path: Path
):
    few = tmp_path / "few"
    shutil.copytree(data, few)
    for path in (few / "labelsTr" / "ball5.nii.gz", few / "imagesTr" / "ball5_0000.nii.gz"):
        path.unlink()
    result = runner.invoke(app, ["central", "ball", "--data", str(few), "--models", str(trained[0])])
    assert result.exit_code == 1
    assert "holds 5 cases, champion" in result.stderr
    assert read_central(trained[0] / "ball").folder == data.resolve()


def test_the_champion_is_listed(trained: tuple[Path, dict]):
    models, told = trained
    listed = json.loads(runner.invoke(app, ["models", "--models", str(models), "--json"]).stdout)
    assert [(row["name"], row["champion"], row["members"]) for row in listed] == [
        ("ball", told["champion"], 2)
    ]
    assert listed[0]["classes"] == ["background", "ball"]
    table = runner.invoke(app, ["models", "--models", str(models)]).stdout
    assert told["champion"] in table


def test_the_doctor_lets_the_champion_predict(trained: tuple[Path, dict], tmp_path: Path):
    models, _ = trained
    (tmp_path / "main.py").touch()
    (tmp_path / "model").symlink_to(models)
    report = json.loads(runner.invoke(app, ["doctor", "--app", str(tmp_path), "--json"]).stdout)
    found = {finding["topic"]: finding for finding in report["findings"]}
    assert found["model ball"]["verdict"] == "ok"
    assert "2 members load and predict" in found["model ball"]["message"]


def test_a_prediction_lies_on_the_grid_of_its_image_and_finds_the_ball(
    trained: tuple[Path, dict], data: Path, tmp_path: Path
):
    models, told = trained
    image, truth = bright_ball(np.random.default_rng(99))
    save(tmp_path / "a new case.nii.gz", image)
    out = tmp_path / "results"
    arguments = ["--out", str(out), "--models", str(models), "--device", "cpu", "--maps", "--json"]
    measures = ["--measure", "mutual_information", "--measure", "predictive_entropy"]
    result = runner.invoke(
        app, ["predict", "ball", str(tmp_path / "a new case.nii.gz"), *arguments, *measures]
    )
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["model"], summary["champion"]) == ("ball", told["champion"])
    names = ("", ".mutual_information", ".predictive_entropy", ".probability-background", ".probability-ball")
    files = {f"a new case{name}.nii.gz" for name in names}
    assert {path.name for path in out.iterdir()} == files | {"summary.json"}
    assert summary["cases"][0]["files"].keys() == files
    written = {name: nib.load(out / f"a new case{name}.nii.gz") for name in names}
    for shown in written.values():
        assert shown.shape == SHAPE
        np.testing.assert_allclose(shown.affine, AFFINE, atol=1e-5)
    labels = np.asarray(written[""].dataobj)
    dice = 2 * (labels * truth).sum() / (labels.sum() + truth.sum())
    assert dice > 0.8
    ball = written[".probability-ball"].get_fdata()
    np.testing.assert_array_equal(
        labels, (ball > written[".probability-background"].get_fdata()).astype(np.uint8)
    )
    assert summary["cases"][0]["size_ml"]["ball"] == pytest.approx(
        labels.sum() * 1.5 * 1.5 * 2 / 1000, abs=1e-3
    )


def test_a_table_for_people_and_one_member_only(trained: tuple[Path, dict], data: Path, tmp_path: Path):
    models, _ = trained
    arguments = ["--out", str(tmp_path), "--models", str(models), "--device", "cpu", "--members", "1"]
    result = runner.invoke(app, ["predict", "ball", str(data / "imagesTr" / "ball0_0000.nii.gz"), *arguments])
    assert result.exit_code == 0, result.stderr
    assert "ball0" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"ball0.nii.gz", "summary.json"}


def test_all_that_is_wrong_with_the_cases_is_told_at_once(data: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    for name in ("imagesTr", "labelsTr"):
        (broken / name).mkdir(parents=True)
        for file in (data / name).iterdir():
            (broken / name / file.name).write_bytes(file.read_bytes())
    (broken / "dataset.json").write_text((data / "dataset.json").read_text())
    save(broken / "labelsTr" / "ball1.nii.gz", np.full(SHAPE, 7, np.uint8))
    save(broken / "imagesTr" / "ball2_0000.nii.gz", np.full(SHAPE, np.nan, np.float32))
    arguments = [
        "train",
        "ball",
        "--data",
        str(broken),
        "--models",
        str(tmp_path / "models"),
        "--device",
        "cpu",
    ]
    told = runner.invoke(app, arguments)
    assert told.exit_code == 1
    assert "holds class values [7]" in told.stderr
    assert "NaN" in told.stderr
    as_json = runner.invoke(app, [*arguments, "--json"])
    assert as_json.exit_code == 1
    assert [problem["case"] for problem in json.loads(as_json.stdout)["problems"]] == ["ball1", "ball2"]
    assert not (tmp_path / "models" / "ball").exists()


def test_other_options_in_mid_training_ask_for_a_restart(data: Path, tmp_path: Path):
    """A work folder of an unfinished training, told by its session."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "session.json").write_text('{"members": 4}')
    arguments = ["train", "ball", "--data", str(data), "--models", str(tmp_path), "--work", str(work)]
    result = runner.invoke(app, [*arguments, "--members", "2", "--device", "cpu"])
    assert result.exit_code == 1
    assert "holds a training of something else" in result.stderr
    assert "start over with restart" in result.stderr


def test_a_name_that_cannot_be_a_folder_is_refused(data: Path, tmp_path: Path):
    result = runner.invoke(app, ["train", "../ball", "--data", str(data), "--models", str(tmp_path)])
    assert result.exit_code == 1
    assert "cannot name a recipe" in result.stderr


def test_a_model_that_is_not_there_is_named_with_the_remedy(data: Path, tmp_path: Path):
    image = data / "imagesTr" / "ball0_0000.nii.gz"
    result = runner.invoke(
        app, ["predict", "lung", str(image), "--out", str(tmp_path), "--models", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "recipe 'lung' has no champion" in result.stderr
    assert "overread train lung" in result.stderr
