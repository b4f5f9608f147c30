"""`overread simulate` prints who beat whom, keeps the report, and says what does not fit."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from overread.cli import app
from support.datasets import write_balls

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_balls(tmp_path_factory.mktemp("data") / "balls", 12)


def arguments(data, tmp_path, *more: str) -> list[str]:
    tiny = ["--starter-iterations", "4", "--iterations", "2", "--test", "2", "--until", "4"]
    return ["simulate", "balls", "--data", str(data), "--quick", *tiny, "--work", str(tmp_path), *more]


@pytest.mark.slow
def test_the_tables_are_printed_and_the_same_command_reads_what_is_there(data, tmp_path):
    out = tmp_path / "report"
    printed = runner.invoke(app, arguments(data, tmp_path / "work", "--out", str(out)))
    assert printed.exit_code == 0, printed.output
    for words in ("most_uncertain", "random", "AUBC", "wins / ties / losses", "one seed shows nothing"):
        assert words in printed.output.replace("\n", " ")
    assert {path.suffix for path in out.iterdir()} == {".json", ".csv", ".md", ".png"}
    again = runner.invoke(app, arguments(data, tmp_path / "work", "--json"))
    summary = json.loads(again.stdout)["summary"]
    kept = json.loads((out / "simulation.json").read_text())
    assert summary == kept["summary"]
    assert kept["settings"]["protocol"]["costs"]["opening_minutes"] == 1.0


def test_an_unknown_strategy_and_a_folder_without_labels_are_told_in_a_sentence(data, tmp_path):
    unknown = runner.invoke(app, arguments(data, tmp_path, "--strategy", "clairvoyant"))
    assert unknown.exit_code == 1
    assert "clairvoyant" in unknown.output
    (tmp_path / "empty").mkdir()
    empty = runner.invoke(app, arguments(tmp_path / "empty", tmp_path))
    assert empty.exit_code == 1
    assert "neither dataset.json" in empty.output
