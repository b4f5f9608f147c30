"""Networks of others come into service by one command; what they do not say has to be given, in words."""

import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from overread.cli import app
from overread.studies.tiny_nnunet import make_case, train_tiny_nnunet

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})
NET = ["--channels", "CT", "--patch", "16,16,16", "--spacing", "1,1,1", "--intensity", "[]"]


class Bright(torch.nn.Module):
    """Says `bone` above 150, the more surely the brighter."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([(150 - windows) / 20, (windows - 150) / 20], dim=1)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "bright.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Bright()), file)
    return file


def run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def write_cases(folder: Path) -> np.ndarray:
    """Two cases that `Bright` gets right but for one noisy corner; returns the first case's labels."""
    rng = np.random.default_rng(5)
    truths = []
    for number in range(2):
        image = rng.normal(50, 10, (20, 18, 16)).astype(np.float32)
        image[4:12, 5:12, 3:11] = 250
        labels = (image > 150).astype(np.uint8)
        image[:3, :3, :3] = 160
        truths.append(labels)
        for path, voxels in (
            (f"imagesTr/c{number}_0000.nii.gz", image),
            (f"labelsTr/c{number}.nii.gz", labels),
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / path)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "bone": 1}}
    (folder / "dataset.json").write_text(
        json.dumps({**description, "numTraining": 2, "file_ending": ".nii.gz"})
    )
    return truths[0]


def test_a_torchscript_file_becomes_a_model_that_predicts(script: Path, tmp_path: Path):
    truth = write_cases(tmp_path / "data")
    models = ["--models", tmp_path / "models"]
    code, out, err = run(
        "import-bundle",
        script,
        "--name",
        "bone",
        "--classes",
        "background,bone",
        *NET,
        "--draws",
        3,
        *models,
        "--json",
    )
    assert code == 0, err
    told = json.loads(out)
    assert (told["model"], told["members"], told["calibration"]) == ("bone", 3, None)
    image = tmp_path / "data" / "imagesTr" / "c0_0000.nii.gz"
    code, _, err = run("predict", "bone", image, "--out", tmp_path / "out", *models, "--device", "cpu")
    assert code == 0, err
    labels = np.asarray(nib.load(tmp_path / "out" / "c0.nii.gz").dataobj)
    expected = truth.copy()
    expected[:3, :3, :3] = 1
    np.testing.assert_array_equal(labels, expected)


def test_cases_that_the_model_has_not_seen_calibrate_its_doubt(script: Path, tmp_path: Path):
    write_cases(tmp_path / "data")
    code, out, err = run(
        *("import-bundle", script, "--name", "bone", "--classes", "background,bone", *NET),
        *("--models", tmp_path / "models", "--data", tmp_path / "data", "--device", "cpu", "--json"),
    )
    assert code == 0, err
    band = json.loads(out)["calibration"]["bands"]["predictive_entropy"]
    # The noisy corner is wrong in both cases, and the only place of doubt.
    assert (band["cases"], band["high_error_share"]) == (2, 1.0)
    assert band["high_voxel_share"] == pytest.approx(27 / (20 * 18 * 16), abs=1e-4)


def test_what_a_torchscript_file_does_not_say_has_to_be_given(script: Path, tmp_path: Path):
    code, _, err = run("import-bundle", script, "--name", "bone", "--models", tmp_path / "models")
    assert code == 1
    assert "give patch" in err
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--patch", "16,wide,16"], "--patch '16,wide,16' should be numbers separated by commas"),
        (["--intensity", "{"], "--intensity is not valid JSON"),
        (["--intensity", '["Scale"]'], "should be a JSON list of transforms"),
    ],
)
def test_options_that_cannot_be_read_are_named(
    script: Path, tmp_path: Path, option: list[str], sentence: str
):
    code, _, err = run("import-bundle", script, "--name", "bone", "--models", tmp_path, *option)
    assert code == 2
    assert sentence in " ".join(err.replace("│", " ").split())


def test_a_folder_that_holds_no_nnunet_model_is_refused(tmp_path: Path):
    (tmp_path / "results").mkdir()
    code, _, err = run(
        "import-nnunet", tmp_path / "results", "--name", "liver", "--models", tmp_path / "models"
    )
    assert code == 1
    assert str(tmp_path / "results") in err


def test_folds_that_are_no_numbers_are_refused(tmp_path: Path):
    code, _, err = run(
        "import-nnunet", tmp_path, "--name", "liver", "--folds", "0,best", "--models", tmp_path
    )
    assert code == 2
    assert "should be fold numbers" in " ".join(err.replace("│", " ").split())


@pytest.mark.slow
def test_folds_of_a_trained_nnunet_become_members(tmp_path: Path):
    results = train_tiny_nnunet(tmp_path / "nnunet", folds=2, iterations=2)
    models = tmp_path / "models"
    code, out, err = run(
        "import-nnunet", results, "--name", "tiny", "--models", models, "--device", "cpu", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["members"] == 2
    code, out, _ = run(
        "import-nnunet", results, "--name", "tiny", "--folds", "1", "--models", models, "--device", "cpu"
    )
    assert code == 0
    assert "tiny has 1 member;" in out
    image, _, grid = make_case(np.random.default_rng(0))
    nib.save(nib.Nifti1Image(image.astype(np.float32), grid.affine), tmp_path / "case.nii.gz")
    code, _, err = run(
        *(
            "predict",
            "tiny",
            tmp_path / "case.nii.gz",
            "--out",
            tmp_path / "out",
            "--models",
            models,
            "--device",
            "cpu",
        )
    )
    assert code == 0, err
    assert nib.load(tmp_path / "out" / "case.nii.gz").shape == image.shape
