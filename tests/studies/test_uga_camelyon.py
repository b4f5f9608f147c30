"""Whoever has Camelyon repeats UGA's experiment by one command: here on a few tiny slides of three centres."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from overread.cli import app
from overread.studies.uga.protocol import PRESETS, Scale
from support.camelyon import write_both_camelyons
from support.tiny_study import PROTOCOL

pytestmark = pytest.mark.slow
PATCH_PX = 32


def test_the_paper_s_experiment_runs_through_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scale = Scale(patch_px=PATCH_PX, window_px=32, batch=2, look_windows=1)
    tiny = PROTOCOL.changed({"preset": "paper", "patches_per_slide": 4, "scales": {"camelyon": scale}})
    monkeypatch.setitem(PRESETS, "paper", tiny)
    data, out = write_both_camelyons(tmp_path / "CAMELYON"), tmp_path / "out"
    command = ["study", "uga", "--data", str(data), "--sets", "camelyon", "--preset", "paper"]
    command += ["--arms", "random,uga", "--seeds", "0", "--device", "cpu", "--work", str(tmp_path / "work")]
    command += ["--out", str(out), "--change", "budgets=1,2"]
    # As the paper has it: places compete, all is learnt from scratch, and every label teaches.
    for change in ("pooled=yes", "begin=scratch", "gated=no"):
        command += ["--change", change]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    results = json.loads((out / "camelyon" / "results.json").read_text())
    study = results["study"]
    assert study["arms"] == ["none", "random", "uga"]
    assert study["domains"] == ["RUMC", "centre_0", "centre_1"]
    assert (study["um_per_px"], study["patch_px"], study["budgets"]) == (1.0, PATCH_PX, [0, 1, 2])
    judged = {(row["arm"], row["budget"], row["domain"]) for row in results["rows"]}
    rounds = [("none", 0), *((arm, budget) for arm in ("random", "uga") for budget in (1, 2))]
    assert judged == {(*one, domain) for one in rounds for domain in study["domains"]}
    # Of slides without tumour, what is shown counts, not Dice.
    assert {row["dice"] is None for row in results["rows"] if row["kind"] == "negative"} <= {True}
    for arm in ("random", "uga"):
        asked = [pick for pick in results["picks"] if pick["arm"] == arm]
        # Two a centre in all, wherever they are asked for.
        assert len(asked) == 4
        assert {pick["domain"] for pick in asked} <= {"centre_0", "centre_1"}
    page = (out / "report.html").read_text()
    assert all(name in page for name in ("uga", "random", "centre_1"))
    assert "camelyon" in (out / "results.md").read_text()
    # Told again, from what is kept.
    assert CliRunner().invoke(app, [*command, "--report"]).exit_code == 0
