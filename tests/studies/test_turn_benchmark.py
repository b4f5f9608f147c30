"""The turn benchmark reads what the real server answers."""

from pathlib import Path

import pytest

from overread.studies import turn_benchmark
from overread.studies.turn_benchmark import make_studies, measure, publish, table_of
from support.servers import app_copy, running_server


def test_turns_are_taken_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_benchmark, "SHAPES", {"slice": (48, 40, 1)})
    app, studies = app_copy(tmp_path / "app"), tmp_path / "studies"
    publish(app, "slice")
    make_studies(studies)
    with running_server(app, studies, ["scoring", "no"]) as url:
        seconds, stages = measure(url, "slice", "slice", 2)
    assert len(seconds) == 3
    assert stages[0]["encode"] > 0
    assert [account["encode"] for account in stages[1:]] == [0, 0]
    assert all(
        account["decode"] > 0 and account["total"] <= took
        for account, took in zip(stages, seconds, strict=True)
    )
    table = table_of({"slice": (seconds, stages)}, "turns")
    assert table.row_count == 2
