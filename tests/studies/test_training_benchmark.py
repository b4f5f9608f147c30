"""The training benchmark runs the training's own steps."""

import json
from pathlib import Path

import pytest

from overread.studies import training_benchmark
from overread.studies.training_benchmark import main, plan_of


def test_steps_are_counted_for_each_plan_and_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = {"pictures": plan_of((16, 16), 2, 4, 8, 3), "volumes": plan_of((8, 8, 8), 1, 4, 8, 3)}
    monkeypatch.setattr(training_benchmark, "PLANS", plans)
    monkeypatch.setattr(training_benchmark, "WARM_UP", 2)
    out = tmp_path / "steps.json"
    arguments = [
        "--device",
        "cpu",
        "--threads",
        "1",
        "--threads",
        "2",
        "--seconds",
        "0.05",
        "--out",
        str(out),
    ]
    main(arguments)
    told = json.loads(out.read_text())
    assert told["device"] == "CPU"
    assert [(row["plan"], row["threads"]) for row in told["rows"]] == [
        (name, threads) for name in plans for threads in (1, 2)
    ]
    assert all(row["steps_per_s"] > 0 and row["batch_s"] > 0 for row in told["rows"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in plans)
