"""`overread train --model meduhip` serves a model that offers several opinions and predicts like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.learning.central import read_central
from overread.meduhip.storage import load_reader
from overread.recipes import FOLDER, RECIPES, Recipe
from support.datasets import write_balls
from support.rated import disc, write_rated

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": "", "OVERREAD_APP": ""})
TINY = {"width": 4, "components": 2, "dimension": 2, "samples": 4, "episode": {"turns": 2, "samples": 2}}
for name, patch in (("tiny_discs", (32, 32)), ("tiny_balls", (32, 16, 16))):
    RECIPES.add(name, Recipe(name, "", model="meduhip", meduhip=TINY, plan={"patch": patch, "batch": 1}))
RECIPES.add(
    "unweighed",
    Recipe("unweighed", "", model="meduhip", meduhip={"backend": "sam", "weights": "no_such.pth"}),
)
ARGUMENTS = ["--iterations", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = (32, 32)
    image = (40 + 100 * disc(shape, (16, 16), 7)).astype(np.uint8)
    masks = {f"c{n}": {f"r{r}": disc(shape, (16, 16), 6 + r) for r in range(3)} for n in range(4)}
    return write_rated(tmp_path_factory.mktemp("discs"), masks, image)


def test_cases_of_several_raters_become_a_champion(discs: Path, tmp_path: Path):
    models = tmp_path / "models"
    arguments = ["--data", str(discs), "--models", str(models), *ARGUMENTS]
    result = runner.invoke(app, ["train", "tiny_discs", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["kind"], told["cases"], told["raters"]) == ("meduhip", 4, ["r0", "r1", "r2"])
    assert told["calibration"]["bands"]["variance"]["cases"] == len(told["held_out"]) == 1
    reader = load_reader(Path(told["folder"]))
    assert reader.classes == ("background", "tiny_discs")
    assert not (models / ".training" / "tiny_discs").exists()
    image = discs / "images" / "c0.png"
    result = runner.invoke(
        app,
        ["predict", "tiny_discs", str(image), "--models", str(models), "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.stderr
    assert list((tmp_path / "out").rglob("*c0*"))


def test_nnunet_cases_of_one_rater_become_a_champion(tmp_path: Path):
    data, models = write_balls(tmp_path / "data", 4, (18, 18, 18)), tmp_path / "models"
    arguments = ["--data", str(data), "--models", str(models), *ARGUMENTS]
    result = runner.invoke(app, ["train", "tiny_balls", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "Champion" in result.stdout
    assert "Calibrated" in result.stdout
    assert len(read_central(models / "tiny_balls").protected) == 1


def test_all_that_is_wrong_is_told_in_one_table(discs: Path, tmp_path: Path):
    masks = {"a": {"r0": disc((8, 8), (4, 4), 2)}, "b": {}}
    data = write_rated(tmp_path / "data", masks, np.full((8, 8), 9, np.uint8))
    (data / "masks" / "a_r0.png").write_bytes(b"")
    arguments = ["--data", str(data), "--models", str(tmp_path / "models"), "--json"]
    result = runner.invoke(app, ["train", "tiny_discs", *arguments])
    assert result.exit_code == 1
    assert {problem["case"] for problem in json.loads(result.stdout)["problems"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny_discs", "--members", "3"], "has no members"),
        (["other", "--option", "task=2"], "add --model meduhip"),
        (["other", "--layout", "rated"], "add --model meduhip"),
    ],
)
def test_options_of_the_other_kind_of_model_are_refused(
    discs: Path, tmp_path: Path, arguments: list[str], message: str
):
    result = runner.invoke(
        app, ["train", *arguments, "--data", str(discs), "--models", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [("task=2", "layout rated has no option 'task'"), ("task", "--option 'task' is not KEY=VALUE")],
)
def test_an_option_that_the_layout_does_not_know_is_refused(
    discs: Path, tmp_path: Path, option: str, message: str
):
    arguments = ["--data", str(discs), "--models", str(tmp_path), "--option", option]
    result = runner.invoke(app, ["train", "tiny_discs", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_layout_and_the_model_can_be_named_on_the_command_line(tmp_path: Path):
    data, models = write_balls(tmp_path / "data", 2, (18, 18, 18)), tmp_path / "models"
    arguments = ["--data", str(data), "--models", str(models), *ARGUMENTS, "--json"]
    named = ["--model", "meduhip", "--layout", "nnunet_raw", "--option", "structure=ball"]
    result = runner.invoke(app, ["train", "unwritten", *arguments, *named], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert load_reader(Path(told["folder"])).classes == ("background", "ball")
    assert told["pseudo_raters"]
    assert told["calibration"] is None


def test_weights_that_are_not_beside_the_recipe_are_named(discs: Path, tmp_path: Path):
    pytest.importorskip("transformers")
    arguments = ["--data", str(discs), "--models", str(tmp_path / "models"), *ARGUMENTS]
    result = runner.invoke(app, ["train", "unweighed", *arguments])
    assert result.exit_code == 1
    assert f"no SAM weights are at {FOLDER / 'no_such.pth'}" in " ".join(result.stderr.split())
