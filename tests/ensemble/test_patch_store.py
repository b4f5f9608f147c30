"""Patches come from prepared cases on disk; more cases take no more memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.ensemble.patch_store import PLACES_PER_CLASS, PatchStore
from overread.imaging.dataset import read_dataset
from support.datasets import ball, write_balls, write_description, write_nifti_case
from support.plans import tiny_plan

ROOT = Path(__file__).parents[2]


def filled(folder: Path, data: Path, classes: int = 2) -> PatchStore:
    store = PatchStore(folder)
    store.fill(read_dataset(data), tiny_plan(classes=classes), np.random.default_rng(0))
    return store


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_voxel_case(folder: Path) -> Path:
    """A case of 40 x 40 x 12 voxels whose values tell their place, with one voxel of class 1 near a corner."""
    image = np.arange(40 * 40 * 12, dtype=np.float32).reshape(40, 40, 12) + 1
    label = np.zeros((40, 40, 12), np.uint8)
    label[37, 2, 5] = 1
    write_nifti_case(folder, "a", [image], label)
    write_description(folder, 1)
    return folder


def test_a_patch_holds_neighbouring_voxels_of_image_and_label(tmp_path: Path) -> None:
    store = filled(tmp_path / "cases", one_voxel_case(tmp_path / "data"))
    image = np.load(tmp_path / "cases" / "a.image.npy")[0]
    seen = set()
    for seed in range(30):
        patch, label = store.sample("a", (16, 16, 8), generator(seed), on_foreground=False)
        assert patch.shape == (1, 16, 16, 8)
        assert label.shape == (16, 16, 8)
        i, j, k = np.argwhere(np.isclose(image, float(patch[0, 0, 0, 0]), atol=1e-6))[0]
        assert np.array_equal(patch[0], image[i : i + 16, j : j + 16, k : k + 8])
        assert bool(label.any()) == (i <= 37 < i + 16 and j <= 2 < j + 16 and k <= 5 < k + 8)
        seen.add((i, j, k))
    assert len(seen) > 20


def test_a_foreground_patch_always_shows_its_class(tmp_path: Path) -> None:
    store = filled(tmp_path / "cases", one_voxel_case(tmp_path / "data"))
    for seed in range(20):
        _, label = store.sample("a", (16, 16, 8), generator(seed), on_foreground=True)
        assert int(label.sum()) == 1


def test_every_class_is_drawn_alike_however_small(tmp_path: Path) -> None:
    label = np.zeros((30, 12, 12), np.uint8)
    label[:14] = 1
    label[29, 6, 6] = 2
    write_nifti_case(tmp_path / "data", "a", [label + np.float32(1)], label)
    write_description(tmp_path / "data", 1, labels={"background": 0, "large": 1, "small": 2})
    store = filled(tmp_path / "cases", tmp_path / "data", classes=3)
    shown = [
        bool((store.sample("a", (4, 4, 4), generator(seed), on_foreground=True)[1] == 2).any())
        for seed in range(60)
    ]
    assert 0.3 < np.mean(shown) < 0.7
    assert len(np.load(tmp_path / "cases" / "a.places.npy")) == PLACES_PER_CLASS + 1


def test_a_case_smaller_than_the_patch_lies_somewhere_in_zeros(tmp_path: Path) -> None:
    store = filled(tmp_path / "cases", write_balls(tmp_path / "data", 1, shape=(10, 12, 20)))
    case = np.load(tmp_path / "cases" / "ball_00.image.npy")
    whole = np.load(tmp_path / "cases" / "ball_00.label.npy")
    corners = set()
    for seed in range(20):
        patch, label = store.sample("ball_00", (16, 16, 20), generator(seed), on_foreground=seed % 2 == 0)
        assert int(label.sum()) == whole.sum()
        occupied = torch.nonzero(patch[0])
        corner = occupied.amin(dim=0)
        assert tuple((occupied.amax(dim=0) - corner + 1).tolist()) == (10, 12, 20)
        i, j, k = (int(n) for n in corner)
        assert np.array_equal(patch[:, i : i + 10, j : j + 12, k : k + 20], case)
        corners.add((i, j, k))
    assert len(corners) > 5


def test_cases_that_are_there_are_not_prepared_again(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "data", 2)
    filled(tmp_path / "cases", data)
    (tmp_path / "cases" / "ball_01.places.npy").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cases").iterdir()}
    filled(tmp_path / "cases", data)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cases").iterdir()}
    assert before["ball_00.image.npy"] == after["ball_00.image.npy"]
    assert before["ball_01.image.npy"] < after["ball_01.image.npy"]
    assert "ball_01.places.npy" in after


def test_more_classes_than_a_byte_holds_are_refused(tmp_path: Path) -> None:
    dataset = read_dataset(write_balls(tmp_path / "data", 1))
    with pytest.raises(BadInputError, match="300 classes do not fit 8 bits"):
        PatchStore(tmp_path).fill(dataset, tiny_plan(classes=300), np.random.default_rng(0))


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from overread.ensemble.patch_store import PatchStore
from overread.imaging.dataset import read_dataset
from support.plans import tiny_plan
data, cases = read_dataset(Path(sys.argv[1])), int(sys.argv[2])
few = type(data)(data.name, data.classes, data.channels, data.cases[:cases], cases)
store = PatchStore(Path(sys.argv[3]))
store.fill(few, tiny_plan(), np.random.default_rng(0))
generator = torch.Generator().manual_seed(0)
for turn in range(3):
    for case in few.cases:
        store.sample(case.id, (64, 64, 64), generator, on_foreground=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    data, rng = tmp_path / "data", np.random.default_rng(0)
    image, label = ball((90, 90, 90), rng, radius=20)
    for index in range(30):
        write_nifti_case(data, f"ball_{index:02d}", [image], label, ending=".nii")
    write_description(data, 30, file_ending=".nii")
    peaks_mb = []
    for cases in (3, 30):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            MEASURE,
            str(data),
            str(cases),
            str(tmp_path / f"{cases}"),
        ]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}"}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks_mb.append(int(told.stdout) / 1024)
    # 27 more cases hold 27 x 2.9 MB of image; less than three of them may show.
    assert peaks_mb[1] - peaks_mb[0] < 9
