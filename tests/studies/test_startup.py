"""The start-up study runs and reports both apps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_tells_both_medians_and_their_difference():
    command = [
        sys.executable,
        "-m",
        "overread.studies.startup",
        str(ROOT / "apps" / "radiology"),
        "--repeats",
        "1",
    ]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(ROOT / "lib")},
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["empty:", "ours:", "ours"]
