"""The study of habits: raters who keep their style, played with memory and without, and counted rightly."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.domain import BadInputError
from overread.studies.meduhip.habits import (
    CONDITIONS,
    ENOUGH_DICE,
    MOST_INTERACTIONS,
    STYLES,
    HabitProtocol,
    habits_markdown,
    picture,
    play_row,
    summarise_habits,
)
from support.known_meduhip import known_model


def test_no_style_serves_whoever_wants_its_neighbour() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, drawn = picture(rng)
        for inner, outer in itertools.pairwise(drawn):
            assert (inner <= outer).all()
            assert 2 * inner.sum() / (inner.sum() + outer.sum()) < ENOUGH_DICE
    again, _ = picture(np.random.default_rng(7))
    np.testing.assert_array_equal(again, picture(np.random.default_rng(7))[0])


def test_a_row_is_played_to_enough_dice_or_given_up() -> None:
    # It draws discs in the middle whatever the picture shows: some are right by chance.
    model = known_model((8.0, 10.0, 14.0, 18.0))
    played = play_row(model, 2, CONDITIONS[1], cases=3, row=0, seed=0)
    assert played["style"] == STYLES[2]
    assert len(played["interactions"]) == len(played["first"]) == 3
    assert all(0 <= count <= MOST_INTERACTIONS for count in played["interactions"])
    for count, first in zip(played["interactions"], played["first"], strict=True):
        assert (count == 0) == (first >= ENOUGH_DICE)
    assert played == play_row(model, 2, CONDITIONS[1], cases=3, row=0, seed=0)


def row(condition: str, style: str, number: int, counts: list[int]) -> dict[str, Any]:
    first = [0.5] * len(counts)
    return {
        "seed": 0,
        "condition": condition,
        "style": style,
        "row": number,
        "interactions": counts,
        "first": first,
    }


def test_what_is_saved_is_told_against_no_memory_with_as_many_misclicks() -> None:
    counts = {
        "no memory": [3, 3, 3],
        "memory": [3, 2, 1],
        "no memory, 20 % misclicks": [4, 4, 4],
        "memory, 20 % misclicks": [4, 4, 5],
    }
    rows = [
        row(name, style, number, [count + (style == STYLES[0]) for count in values])
        for name, values in counts.items()
        for style in STYLES
        for number in range(3)
    ]
    found = {habit.condition: habit for habit in summarise_habits(rows)}
    assert found["no memory"].saved is None
    saved = found["memory"].saved
    assert saved is not None
    assert (saved.estimate, saved.low, saved.high) == (2, 2, 2)
    worse = found["memory, 20 % misclicks"].saved
    assert worse is not None
    assert worse.estimate == -1
    assert found["memory"].interactions[0] == pytest.approx(3 + 1 / len(STYLES))
    assert found["memory"].by_style[STYLES[0]] == 2
    table = habits_markdown(list(found.values()))
    assert "saved at case 3" in table
    assert len(table.splitlines()) == 2 + len(CONDITIONS)


def test_an_impossible_protocol_is_refused() -> None:
    with pytest.raises(BadInputError, match="two cases"):
        HabitProtocol(cases=1)


def test_the_command_goes_on_where_it_was_and_writes_tables_and_a_plot(tmp_path: Path) -> None:
    command = ["study", "preference", "--seeds", "1", "--minutes", "0.02", "--cases", "2", "--rows", "1"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pt")}
    assert models
    again = CliRunner().invoke(app, command)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pt")} == models
    assert (tmp_path / "out" / "preference.png").stat().st_size > 1000
    assert "no memory" in (tmp_path / "out" / "preference.md").read_text()
