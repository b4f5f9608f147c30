"""The hippocampus study judges on cases that nothing was learnt or chosen on, and its table says what was counted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from overread.domain import Grid
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import read_volume, write_nifti
from overread.studies.hippocampus import (
    ALONE,
    DEVELOPMENT_CASES,
    DEVELOPMENT_SEED,
    OURS,
    THEIRS,
    Judged,
    development_cases,
    mosaic,
    render,
    split,
    untouched,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hippocampus")
    for index in range(160):
        for part in ("images", "labels"):
            write_nifti(
                folder / part / f"case_{index:03d}.nii.gz",
                np.zeros((2, 2, 2), np.uint8),
                Grid((2, 2, 2), np.eye(4)),
            )
    return folder


def test_training_test_and_development_cases_are_disjoint(data, tmp_path):
    split(data, tmp_path)
    training = {case.id for case in read_dataset(tmp_path / "raw").cases}
    test = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "raw" / "labelsTs").iterdir()}
    assert len(training) == 40
    assert len(test) == 60
    assert not training & test
    names = sorted(path.name for path in (data / "images").iterdir())
    random.Random(DEVELOPMENT_SEED).shuffle(names)
    assert not test & {name.removesuffix(".nii.gz") for name in names[DEVELOPMENT_CASES]}


def test_the_split_is_the_same_every_time(data, tmp_path):
    split(data, tmp_path / "a")
    split(data, tmp_path / "b")
    files = [
        sorted(p.relative_to(tmp_path / side) for p in (tmp_path / side).rglob("*.gz")) for side in ("a", "b")
    ]
    assert files[0] == files[1]


def judged(dice: float, *, score: float = 0.1, caught: float | None = None, wrong: int = 10) -> Judged:
    shown = None if caught is None else 0.03
    return Judged([dice, dice - 0.1], 0.02, 0.004, 0.002, score, 3 * score, wrong, caught, shown)


def test_the_table_holds_means_and_paired_differences():
    ours = [judged(0.9, score=0.1, caught=0.5, wrong=30), judged(0.8, score=0.2, caught=1.0, wrong=10)]
    alone = [
        [judged(0.88, score=0.0), judged(0.76, score=0.0)],
        [judged(0.90, score=0.0), judged(0.80, score=0.0)],
    ]
    theirs = [judged(0.7, score=0.3), judged(0.6, score=0.4)]
    report = render(
        {OURS: ours, f"Overread{ALONE} 1": alone[0], f"Overread{ALONE} 2": alone[1], THEIRS: theirs}
    )
    lines = report.splitlines()
    # (0.9 + 0.8) / 2, then 0.1 less in the second class, and the mean of both.
    assert next(line for line in lines if line.startswith(f"| {OURS} |")).startswith(
        f"| {OURS} | 0.850 | 0.750 | 0.800 ["
    )
    assert f"| Overread{ALONE} (mean of 2) | 0.835 | 0.735 | 0.785 [" in report
    assert f"- minus {THEIRS}: 0.200 [0.200, 0.200]" in report
    # 15 of 30 and 10 of 10 wrong voxels: 25 of 40.
    assert "`doubt: high` holds 62.5 % of all wrong voxels" in report
    assert "in 3.0 % of the voxels shown" in report
    # The case with more disagreement has the smaller Dice.
    assert "pairwise Dice disagreement of the members with Dice: -1.000" in report


def test_the_mosaic_holds_eight_cases_side_by_side(tmp_path):
    for index in range(9):
        voxels = np.full((30, 51, 36), index + 1.0, np.float32)
        write_nifti(
            tmp_path / "raw" / "imagesTs" / f"case_{index}_0000.nii.gz", voxels, Grid(voxels.shape, np.eye(4))
        )
    joined = read_volume([mosaic(tmp_path)]).voxels[0]
    assert joined.shape == (70, 102, 72)
    assert joined[0, 0, 0] == joined[64, 101, 71] == 1
    # A case that is smaller than its tile is followed by nothing.
    assert joined[30:35].max() == 0


def test_the_untouched_cases_are_all_but_those_of_the_development(data, tmp_path):
    untouched(data, tmp_path / "rest")
    names = sorted(path.name for path in (data / "images").iterdir())
    for part in ("images", "labels"):
        rest = sorted(path.name for path in (tmp_path / "rest" / part).iterdir())
        assert len(rest) == 120
        assert sorted({*rest} | {*development_cases(names)}) == names
