"""Claim: the benchmark counts all of a command's processes, and compares label maps by Dice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from overread.domain import Grid, OverreadError
from overread.ensemble.bundle import import_bundle
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.studies.predictor_benchmark import Row, label_dice, table_of
from overread.studies.process_cost import measure_command

HOLD_200_MB = "import time; held = bytearray(200 * 2**20); time.sleep(1.5)"


class Brightness(nn.Module):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - windows, windows - 0.5], dim=1)


def test_memory_of_a_child_of_the_command_counts() -> None:
    alone = measure_command([sys.executable, "-c", HOLD_200_MB])
    parent = "import subprocess, sys; held = bytearray(200 * 2**20); "
    parent += f"subprocess.run([sys.executable, '-c', {HOLD_200_MB!r}])"
    both = measure_command([sys.executable, "-c", parent])
    assert 200 < alone.peak_mb < 300
    assert 400 < both.peak_mb < 600


def test_time_asleep_is_wall_time_and_not_processor_time() -> None:
    cost = measure_command([sys.executable, "-S", "-c", "import time; time.sleep(1); print('awake')"])
    assert cost.wall_s >= 1
    assert cost.cpu_s < cost.wall_s
    assert cost.output == "awake\n"


def test_the_environment_reaches_the_command() -> None:
    code = "import os; print(os.environ['OVERREAD_TEST'])"
    assert measure_command([sys.executable, "-c", code], {"OVERREAD_TEST": "here"}).output == "here\n"


def test_a_command_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(OverreadError, match=r"exit code 3:\nno such fold"):
        measure_command([sys.executable, "-c", "print('no such fold'); raise SystemExit(3)"])


def test_dice_is_per_class_and_absent_where_neither_has_it() -> None:
    labels = np.array([0, 1, 1, 1, 0, 0])
    reference = np.array([0, 1, 0, 0, 0, 2])
    assert label_dice(labels, reference, 4) == [0.5, 0.0, None]


def test_predicts_once_and_says_what_it_took(tmp_path: Path) -> None:
    torch.jit.script(Brightness()).save(str(tmp_path / "net.ts"))
    folder = import_bundle(
        tmp_path / "net.ts",
        "bright",
        tmp_path / "ensemble",
        classes=["background", "bright"],
        channels=["MR"],
        patch=[8, 8, 8],
        spacing_mm=[1, 1, 1],
        intensity=[],
    )
    image = np.zeros((10, 9, 8), np.float32)
    image[2:5, 3:6, 1:4] = 1
    write_nifti(tmp_path / "image.nii.gz", image, Grid(image.shape, np.eye(4)))
    command = [sys.executable, "-m", "overread.studies.predict_once", str(folder)]
    command += [str(tmp_path / "image.nii.gz"), str(tmp_path / "labels.nii.gz"), "--precision", "full"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["members_spared"] == 0
    assert set(report["timing_s"]) == {"prepare", "members", "total"}
    labels, _ = read_labelmap(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(labels, image)


def test_the_table_shows_smallest_median_and_largest() -> None:
    row = Row("half", [3.0, 1.0, 2.0], [1.0], [100.0], [0.5], [0.25], [0.75, None], 0.01, 0.4)
    table = table_of([row])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[:2] == ["half", "1.0 / 2.0 / 3.0"]
    assert cells[-3:] == ["0.7500 -", "1.00%", "40%"]
