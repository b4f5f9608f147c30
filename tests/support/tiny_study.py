"""A study of UGA small enough for tests: coloured discs of two places, and bright balls in volumes.

python -m support.tiny_study WORK        takes part in the study of `job(WORK)` as another process
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from overread.studies.uga.protocol import Protocol, Scale
from overread.studies.uga.sets import StudyCase, StudySet
from overread.studies.uga.sources import SOURCES, Progress, source
from overread.studies.uga.study import Job, run_study

PROTOCOL = Protocol(
    budgets=(1, 2),
    members=2,
    starter_iterations=6,
    iterations=3,
    batch=2,
    scale=Scale(window_px=32, batch=2, look_windows=1),
    features=4,
    most_features=8,
    stages=3,
    voxels=16 * 16 * 8,
    step=1.0,
    most_cases=4,
)
EDGE_PX, PATCH_PX = 96, 32
PLACES = {"north": (7, (230, 200, 220), (90, 40, 120)), "south": (4, (200, 200, 200), (60, 60, 60))}


def job(work: Path, arms: tuple[str, ...], sets: tuple[str, ...] = ("discs",), **changes: object) -> Job:
    """The study in a work folder."""
    return Job(work, None, sets, arms, (0,), PROTOCOL.changed(changes), "cpu")


@source("discs")
def discs(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Dark discs on light ground, stained otherwise in the south."""
    del data
    cases = []
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    for place, (count, ground, ink) in PLACES.items():
        for number in range(count):
            name = f"{place}_{number}"
            rng = np.random.default_rng([len(place), number, ord(place[0])])
            truth = np.zeros((EDGE_PX, EDGE_PX), np.uint8)
            rows, columns = np.mgrid[:EDGE_PX, :EDGE_PX]
            for y, x in rng.integers(10, EDGE_PX - 10, (6, 2)):
                truth |= ((rows - y) ** 2 + (columns - x) ** 2 < 60).astype(np.uint8)
            picture = np.where(truth[..., None] > 0, ink, ground) + rng.normal(0, 6, (*truth.shape, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
            Image.fromarray(truth).save(folder / "labels" / f"{name}.png")
            # Two pictures of one patient.
            patient = f"{place}_patient_{number // 2}"
            cases.append(
                StudyCase(
                    name, folder / "images" / f"{name}.png", folder / "labels" / f"{name}.png", place, patient
                )
            )
    progress(1.0)
    return StudySet(
        "discs", 2, ("background", "Disc"), ("R", "G", "B"), "north", tuple(cases), 1.0, 1.0, PATCH_PX
    )


@source("balls")
def balls(data: Path, folder: Path, progress: Progress) -> StudySet:
    """Bright balls in noise, fainter in the south."""
    del data
    cases = []
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    grid = np.array(np.mgrid[:20, :18, :10])
    for place, count, contrast in (("north", 6, 6.0), ("south", 4, 2.0)):
        for number in range(count):
            rng = np.random.default_rng([number, ord(place[0])])
            middle = rng.integers(6, 12, 3)[:, None, None, None] * np.array([1, 1, 0.5])[:, None, None, None]
            truth = (((grid - middle) ** 2).sum(axis=0) < 12).astype(np.uint8)
            voxels = rng.normal(0, 1, truth.shape) + contrast * truth
            name = f"{place}_{number}"
            for part, values in (("images", voxels.astype(np.float32)), ("labels", truth)):
                nib.save(
                    nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / part / f"{name}.nii.gz"
                )
            cases.append(
                StudyCase(
                    name,
                    folder / "images" / f"{name}.nii.gz",
                    folder / "labels" / f"{name}.nii.gz",
                    place,
                    name,
                )
            )
    progress(1.0)
    return StudySet("balls", 3, ("background", "Ball"), ("MR",), "north", tuple(cases))


if __name__ == "__main__":
    assert "discs" in SOURCES
    run_study(job(Path(sys.argv[1]), tuple(sys.argv[2].split(","))))
