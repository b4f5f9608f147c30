"""Whether a memory of habits helps people: halves by patient, one row a rater, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from overread.cli.main import app
from overread.domain import BadInputError
from overread.imaging.rated import read_rated
from overread.meduhip.choosers import ORACLE
from overread.meduhip.memory import Preference
from overread.studies.meduhip.clinicians import Clinician
from overread.studies.meduhip.habits import work_through
from overread.studies.meduhip.rater_habits import (
    CONDITIONS,
    KNOWN_AFTER,
    raters_markdown,
    run_raters,
    summarise_raters,
)
from overread.studies.meduhip.study import Protocol
from support.known_meduhip import RADII, disc_of, known_reader, picture
from support.rated import disc, write_picture

SIZE, CASES = 40, 14
MINUTES = 0.01


def discs(root: Path, cases: int, raters: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for case in range(cases):
        centre = rng.uniform(16, 24, 2)
        shown = 60 * rng.random((SIZE, SIZE)) + 120 * disc((SIZE, SIZE), centre, 9)
        write_picture(root / "images" / f"case{case}.png", shown.astype(np.uint8))
        for rater in range(raters):
            write_picture(
                root / "masks" / f"case{case}_r{rater}.png", disc((SIZE, SIZE), centre, 8 + 3 * rater)
            )
    return root


def test_the_command_goes_on_where_it_was_and_tells_each_rater(tmp_path: Path) -> None:
    data = discs(tmp_path / "data", CASES)
    command = ["study", "preference", "--data", str(data), "--seeds", "1", "--minutes", str(MINUTES)]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert [one["condition"] for one in told["conditions"]] == list(CONDITIONS)
    assert all(len(one["by_rater"]) == 2 for one in told["conditions"])
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pt")}
    again = CliRunner().invoke(app, command)
    assert json.loads(again.stdout) == told
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pt")} == models
    assert (tmp_path / "out" / "preference.png").stat().st_size > 1000
    rows = run_raters(read_rated(data), tmp_path / "work" / "data", Protocol(seeds=1, minutes=MINUTES))
    worked = set(rows[0]["cases"])
    assert len(worked) == CASES / 2
    assert all(set(row["cases"]) == worked and len(row["first"]) == len(worked) for row in rows)


def test_cases_of_other_people_and_too_few_are_refused(tmp_path: Path) -> None:
    few = read_rated(discs(tmp_path / "few", 8))
    with pytest.raises(BadInputError, match="leave 4 cases to work through, expected more than 5"):
        run_raters(few, tmp_path / "work_few", Protocol(seeds=1, minutes=MINUTES))
    mixed = discs(tmp_path / "mixed", CASES)
    (mixed / "masks" / "case3_r1.png").unlink()
    with pytest.raises(BadInputError, match="labelled by 1 to 2 people"):
        run_raters(read_rated(mixed), tmp_path / "work_mixed", Protocol(seeds=1, minutes=MINUTES))
    alone = read_rated(discs(tmp_path / "alone", 4, raters=1))
    with pytest.raises(BadInputError, match="were labelled by one person"):
        run_raters(alone, tmp_path / "work_alone", Protocol(seeds=1, minutes=MINUTES))


def row(condition: str, rater: int, first: float, interactions: int) -> dict[str, Any]:
    count = KNOWN_AFTER + 3
    return {
        "seed": 0,
        "rater": rater,
        "condition": condition,
        "cases": [f"case{index}" for index in range(count)],
        # Before they know each other everything is bad.
        "first": [0.0] * KNOWN_AFTER + [first] * 3,
        "interactions": [8] * KNOWN_AFTER + [interactions] * 3,
    }


def test_what_is_gained_is_told_against_no_memory_once_they_know_each_other() -> None:
    without, styles, memory = CONDITIONS
    rows = [row(without, 0, 0.8, 4), row(styles, 0, 0.8, 4), row(memory, 0, 0.9, 1)]
    rows += [row(without, 1, 0.7, 5), row(styles, 1, 0.6, 6), row(memory, 1, 0.7, 5)]
    first, second, third = summarise_raters(rows)
    assert (first.first, first.interactions, first.gained) == (pytest.approx(0.75), 4.5, None)
    assert second.gained is not None
    assert second.gained.estimate == pytest.approx(-0.05)
    assert third.saved is not None
    assert (third.saved.estimate, third.saved.groups) == (pytest.approx(1.5), 3)
    assert third.by_rater == pytest.approx((0.9, 0.7))
    assert (
        "| memory | 0.8000 | +0.0500 [+0.0500, +0.0500] | 3.00 | +1.50 [+1.50, +1.50] |"
        in raters_markdown([first, second, third])
    )


def test_who_always_draws_wider_is_shown_more_from_the_second_case_on() -> None:
    reader = known_reader()
    image = reader.open(picture()).prepared.voxels
    wanted = torch.from_numpy(disc_of(max(RADII) + 2))

    def worked(remember: Any) -> list[float]:
        clinician, said = Clinician("rater", ORACLE), np.random.default_rng(0)
        return work_through(reader.model, [(image, wanted)] * 4, clinician, said, 0, remember)[1]

    def same(preference: Preference) -> Preference:
        return preference

    without, memory = worked(None), worked(same)
    assert memory[0] == pytest.approx(without[0], abs=0.02)
    assert min(memory[1:]) > max(without) + 0.05
