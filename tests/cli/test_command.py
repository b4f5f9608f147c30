"""The command starts at once, explains itself to a stranger, and tells errors in one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from overread import __version__
from overread.cli import app

COMMANDS = [
    *(
        "demo",
        "serve",
        "train",
        "central",
        "recolour",
        "import-nnunet",
        "import-bundle",
        "predict",
        "simulate",
    ),
    *("retrain", "watch", "arms", "export", "backup", "restore", "doctor"),
]
# Commands of their own below a common name.
GROUPS = {
    "study": ["meduhip", "preference", "uga", "change"],
    "models": ["list", "show", "diff", "rollback"],
    "audit": ["verify", "export"],
    "preference": ["show", "export", "reset", "replay"],
    "users": ["add", "token", "list", "revoke"],
}
IN_GROUPS = [f"{group} {command}" for group, commands in GROUPS.items() for command in commands]
runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": "", "OVERREAD_APP": ""})


def test_starts_without_the_libraries_that_take_seconds_to_import():
    code = "import sys, overread.cli; print(sorted({'torch', 'monai', 'numpy', 'monailabel'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_names_every_command():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.output for command in [*COMMANDS, *GROUPS])
    assert "not a medical device" in result.output


@pytest.mark.parametrize("command", [*COMMANDS, *IN_GROUPS])
def test_help_of_each_command_has_an_example_and_explains_every_option(command):
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"overread {command}" in result.output.partition("Examples")[2]
    options = [line for line in result.output.splitlines() if re.match(r"│[ *]+--", line)]
    assert options
    # Name, type and then at least a few words of explanation.
    assert all(len(line.strip("│* ").split()) >= 5 for line in options), options


def test_every_command_is_covered_here():
    assert [command.name for command in app.registered_commands] == COMMANDS
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    assert {
        name: [
            command.name or command.callback.__name__
            for command in found.registered_commands
            if command.callback
        ]
        for name, found in groups.items()
        if found is not None
    } == GROUPS


def test_without_arguments_the_help_is_shown():
    result = runner.invoke(app, [])
    assert "Usage" in result.output


def test_version_is_the_packages():
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, __version__)


def test_an_error_is_one_sentence_without_traceback(tmp_path: Path):
    image = tmp_path / "absent.nii.gz"
    result = runner.invoke(
        app, ["predict", "liver", str(image), "--out", str(tmp_path), "--models", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert result.stderr.strip() == f"Error: {image} does not exist"
    assert result.stdout == ""


def test_debug_shows_where_an_error_came_from(tmp_path: Path):
    from overread.domain import NotFoundError

    arguments = ["predict", "liver", str(tmp_path / "no"), "--out", str(tmp_path), "--models", str(tmp_path)]
    for debugging in (
        runner.invoke(app, ["--debug", *arguments]),
        runner.invoke(app, arguments, env={"OVERREAD_DEBUG": "1"}),
    ):
        assert isinstance(debugging.exception, NotFoundError)


def test_an_app_folder_without_main_is_refused(tmp_path: Path):
    result = runner.invoke(app, ["models", "--app", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no main.py" in result.stderr


def test_a_folder_without_champions_is_an_empty_list(tmp_path: Path):
    listed = runner.invoke(app, ["models", "--models", str(tmp_path), "--json"])
    assert (listed.exit_code, json.loads(listed.stdout)) == (0, [])
    told = runner.invoke(app, ["models", "--models", str(tmp_path)])
    assert "overread train NAME" in told.stdout


@pytest.mark.parametrize(
    ("device", "sentence"), [("gpu", "is not known; use auto"), ("cuda:97", "is not there")]
)
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, sentence: str):
    image = tmp_path / "image.nii.gz"
    image.touch()
    arguments = ["predict", "liver", str(image), "--out", str(tmp_path), "--models", str(tmp_path)]
    result = runner.invoke(app, [*arguments, "--device", device])
    assert result.exit_code == 1
    assert sentence in " ".join(result.stderr.split())
