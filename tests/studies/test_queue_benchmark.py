"""The queue's benchmark asks the real server while cases are scored and afterwards, and reports both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_reports_every_strategy_while_scoring_and_afterwards():
    command = [sys.executable, "-m", "overread.studies.queue_benchmark", str(ROOT / "apps" / "radiology")]
    ran = subprocess.run(
        [*command, "--cases", "12", "--requests", "2"],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(ROOT / "lib")},
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("first start with 12 studies: ")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "just started, pairwise_dice",
        "just started, most_uncertain",
        "just started, clasp_pe",
        "just started, foreground_random",
        "while scoring, pairwise_dice",
        "while scoring, most_uncertain",
        "while scoring, clasp_pe",
        "while scoring, foreground_random",
        "next start",
        "all scored, pairwise_dice",
        "all scored, most_uncertain",
        "all scored, clasp_pe",
        "all scored, foreground_random",
    ]
    assert all(line.endswith("12 to 12 of 12 scored") for line in lines[10:])
