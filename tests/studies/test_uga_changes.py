"""What a change of the protocol gains is told on the same cases after trainings of the same seeds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.domain import BadInputError
from overread.studies.uga.changes import change_sheets, changes
from overread.studies.uga.findings import POOLED
from support.uga_results import SHARES, study_of

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200", "OVERREAD_DEBUG": ""})


def by_row(before: dict[str, Any], after: dict[str, Any]) -> dict[tuple[str, int | None, str], Any]:
    return {(one.arm, one.budget, one.place): one for one in changes(before, after)}


def test_the_gain_is_what_the_change_is_worth_case_by_case() -> None:
    # Without noise of trainings, but cases that differ by a Dice of 0.1: unpaired, no interval would be narrow.
    one = study_of(noise=0.0)
    other = study_of(noise=0.0, shares={**SHARES, "clasp_pe": (0.7, 0.8)}, forgetting={"clasp_pe": 0.05})
    found = by_row(one, other)
    # Grey has a gap of 0.4 and seven cases with a Dice, pink one of 0.2 and eight.
    at_five = found["clasp_pe", 5, POOLED]
    assert at_five.difference.estimate == pytest.approx((7 * 0.04 + 8 * 0.02) / 15, abs=1e-9)
    assert at_five.after.estimate - at_five.before.estimate == pytest.approx(at_five.difference.estimate)
    assert found["clasp_pe", 5, "grey"].difference.low == pytest.approx(0.04, abs=1e-9)
    assert found["clasp_pe", 5, "grey"].difference.high == pytest.approx(0.04, abs=1e-9)
    assert found["clasp_pe", 10, "grey"].difference.estimate == pytest.approx(0, abs=1e-9)
    # From 0 over 5 to 10: a triangle as high as the gain in the middle.
    assert found["clasp_pe", None, "grey"].difference.estimate == pytest.approx(0.02, abs=1e-9)
    assert found["clasp_pe", 5, "violet"].difference.estimate == pytest.approx(-0.05, abs=1e-9)
    assert found["clasp_pe", 5, "violet"].is_central
    assert not at_five.is_central
    for arm in ("random", "uga", "none", "all", "adabn"):
        gains = [one.difference for (name, _, _), one in found.items() if name == arm]
        assert gains
        assert all(gain.low == gain.high == 0 for gain in gains)
    # Statistics of another place were not judged at the first one.
    assert ("adabn", 0, "violet") not in found


def test_only_seeds_budgets_and_arms_of_both_are_told() -> None:
    one = study_of(seeds=(0, 1, 2), budgets=(0, 5, 10))
    other = study_of(seeds=(1, 2, 3), budgets=(0, 5), shares={"random": (0.3,), "most_uncertain": (0.5,)})
    found = by_row(one, other)
    assert {arm for arm, _, _ in found} == {"random", "none", "all", "hed", "adabn"}
    assert {budget for arm, budget, _ in found if arm == "random"} == {5, None}
    assert all(change.seeds == (1, 2) for change in found.values())


def test_a_seed_that_one_did_not_finish_is_left_out() -> None:
    one, other = study_of(seeds=(0, 1, 2)), study_of(seeds=(0, 1, 2))
    other["rows"] = [
        row for row in other["rows"] if (row["seed"], row["arm"], row["budget"]) != (1, "random", 10)
    ]
    found = by_row(one, other)
    assert found["random", 5, POOLED].seeds == (0, 2)
    asked = {row[0]: row[2] for row in change_sheets(list(found.values()))[0].rows}
    assert (asked["random"], asked["uga"]) == ("0, 2", "0-2")
    assert found["uga", 5, POOLED].seeds == (0, 1, 2)


def test_an_area_begins_with_the_first_model_of_its_own_study() -> None:
    one = study_of(noise=0.0, levels={"violet": (0.9, 0.9), "grey": (0.3, 0.7), "pink": (0.5, 0.7)})
    other = study_of(noise=0.0, levels={"violet": (0.9, 0.9), "grey": (0.5, 0.7), "pink": (0.5, 0.7)})
    found = by_row(one, other)
    assert found["none", 0, "grey"].difference.estimate == pytest.approx(0.2, abs=1e-9)
    # Shares 0.3 and 0.5 of gaps of 0.4 and 0.2: gains 0.2, 0.14 and 0.1 at 0, 5 and 10.
    gains = (0.2, 0.14, 0.1)
    area = (gains[0] / 2 + gains[1] + gains[2] / 2) / 2
    assert found["random", None, "grey"].difference.estimate == pytest.approx(area, abs=1e-9)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(BadInputError, match="set is 'three stains' and 'five stains'"):
        changes(study_of(), study_of(name="five stains"))
    with pytest.raises(BadInputError, match=r"of the seeds \(0, 1\), and .* of \(2, 3\)"):
        changes(study_of(seeds=(0, 1)), study_of(seeds=(2, 3)))
    with pytest.raises(BadInputError, match="after the change: results hold no `study`"):
        changes(study_of(), {"rows": []})


def test_tables_name_the_central_place_and_say_where_one_seed_shows_nothing() -> None:
    sheets = change_sheets(changes(study_of(), study_of()))
    assert sheets[0].columns[3:] == tuple(
        f"{place}: {what}" for place in (POOLED, "violet (central)") for what in ("before", "after", "gained")
    )
    assert sheets[1].columns[3:] == ("grey", "pink", POOLED, "violet (central)")
    assert all(len(row) == len(sheet.columns) for sheet in sheets for row in sheet.rows)
    first = next(row for row in sheets[0].rows if row[:2] == ("random", "5"))
    assert first[2] == "0-4"
    assert first[5] == "+0.000 [+0.000, +0.000] no difference shown"
    assert next(row for row in sheets[0].rows if row[:2] == ("random", "area"))[6:] == ("–", "–", "–")
    one = change_sheets(changes(study_of(seeds=(0,)), study_of(seeds=(0,))))
    assert one[0].note.endswith("One seed shows nothing.")
    assert next(row for row in one[0].rows if row[:2] == ("random", "5"))[5] == "+0.000 [+0.000, +0.000]"


def test_a_single_place_is_not_pooled() -> None:
    levels = {"violet": (0.9, 0.9), "grey": (0.3, 0.7)}
    sheets = change_sheets(changes(study_of(levels=levels), study_of(levels=levels)))
    assert sheets[1].columns[3:] == ("grey", "violet (central)")
    assert sheets[0].columns[3].startswith("grey: ")


def test_the_command_reads_files_zipped_or_not(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(study_of()))
    (tmp_path / "two.json.gz").write_bytes(gzip.compress(json.dumps(study_of()).encode()))
    paths = [str(tmp_path / "one.json"), str(tmp_path / "two.json.gz")]
    told = runner.invoke(app, ["study", "change", *paths])
    assert told.exit_code == 0, told.output
    assert "| random | 10 | 0-4 |" in told.stdout
    found = json.loads(runner.invoke(app, ["study", "change", *paths, "--json"]).stdout)
    assert {one["arm"] for one in found} >= {"random", "none"}
    (tmp_path / "bad.json").write_text("{}")
    refused = runner.invoke(app, ["study", "change", paths[0], str(tmp_path / "bad.json")])
    assert refused.exit_code == 1
    assert "bad.json is no results.json of a study" in refused.stderr
