"""The control arm tells whether asking by doubt beats chance, and says nothing before it can."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.learning.arms import FEWEST_PATIENTS, compare_arms
from overread.state.database import Database
from overread.state.labels import FLAGGED, LabelRow, add_label
from overread.state.servings import CONTROL, STRATEGY


def label(number: int, arm: str, dice: float | None, **others) -> LabelRow:
    row = LabelRow(
        case_id=f"case{number}",
        patient=f"patient{number}",
        rater="ann",
        client_id="slicer",
        revision=1,
        file=f"case{number}/ann-1.nii.gz",
        sha256="0" * 64,
        tag="final",
        recipe="liver",
        champion="abc",
        arm=arm,
        took_s=60.0 * (number % 3 + 1),
        dice_to_proposal=dice,
        partial=False,
        protected=arm == CONTROL,
        submitted_at=float(number),
    )
    return replace(row, **others)


def arms(of_strategy: float, of_control: float, patients: int = 8) -> list[LabelRow]:
    wobble = [0.01 * (number % 3 - 1) for number in range(2 * patients)]
    return [
        label(number, STRATEGY if number < patients else CONTROL, d + wobble[number])
        for number, d in enumerate([of_strategy] * patients + [of_control] * patients)
    ]


def test_cases_that_needed_more_correction_speak_for_the_strategy():
    found = compare_arms(arms(of_strategy=0.7, of_control=0.9))
    assert found.difference is not None
    assert found.difference.estimate == pytest.approx(0.2, abs=0.005)
    assert found.difference.low > 0.15
    assert found.verdict.startswith("asking by the strategy beats chance")


def test_chance_may_win_and_that_is_told():
    assert compare_arms(arms(of_strategy=0.9, of_control=0.7)).verdict.startswith("chance beats the strategy")


def test_equal_arms_show_no_difference():
    assert compare_arms(arms(0.8, 0.8)).verdict.startswith("no difference is shown")


def test_too_few_patients_are_too_early_to_tell():
    rows = arms(0.7, 0.9)
    few = [row for row in rows if row.arm == STRATEGY] + [row for row in rows if row.arm == CONTROL][:4]
    found = compare_arms(few)
    assert found.difference is None
    assert found.control.correction is None
    assert found.verdict == (
        "too early to tell: 8 patients asked by the strategy and 4 patients drawn at random were corrected, "
        f"{FEWEST_PATIENTS} of each are needed"
    )


def test_of_a_case_the_newest_label_counts_and_what_was_turned_down_does_not():
    rows = arms(0.7, 0.9)
    again = label(0, STRATEGY, 0.1, revision=2, submitted_at=100.0, file="case0/ann-2.nii.gz")
    turned_down = label(50, STRATEGY, 0.0, status=FLAGGED)
    by_hand = label(51, "", 0.0)
    unproposed = label(52, STRATEGY, None)
    found = compare_arms([*rows, again, turned_down, by_hand, unproposed])
    assert found.strategy.labels == 8
    assert found.strategy.correction is not None
    assert found.strategy.correction.estimate == pytest.approx((0.3 * 7 + 0.0 + 0.9) / 8, abs=0.01)


def test_the_command_prints_both_arms_and_the_verdict(tmp_path):
    database = Database.open(tmp_path / "overread.db")
    with database.writing() as c:
        for row in arms(of_strategy=0.7, of_control=0.9):
            add_label(c, row)
    database.close()
    runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200"})
    where = ["--database", str(tmp_path / "overread.db")]
    told = runner.invoke(app, ["arms", "liver", *where])
    assert told.exit_code == 0, told.output
    assert "strategy" in told.output
    assert "control" in told.output
    assert "asking by the strategy beats chance" in told.output
    as_json = json.loads(runner.invoke(app, ["arms", "liver", *where, "--json"]).output)
    assert as_json["control"]["labels"] == 8
    assert as_json["strategy"]["minutes"] == 2.0
