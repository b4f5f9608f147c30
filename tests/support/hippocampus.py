"""Real cases from the data folder beside the checkout, and a beginner that was trained on a few of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from overread.ensemble.calibrate import calibrate
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import Case, read_dataset
from overread.learning.central import protected_of, remember_central
from overread.learning.champions import ChampionStore
from overread.studies.simulation.cases import read_labelled, write_raw

DATA = Path(os.environ.get("OVERREAD_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
HIPPOCAMPI = DATA / "hippocampus_mr3d"
RECIPE = "hippocampus"
CLASSES = ("background", "anterior", "posterior")
# Coarse and small, so that a step takes a tenth of a second.
SMALL = {"spacing_mm": (2.0, 2.0, 2.0), "patch": (16, 24, 16), "batch": 2, "features": (8, 16, 32)}
# float32 on one core: the same champion every time. After so few steps it is right about half of the voxels.
BEGINNER = TrainingOptions(
    members=2, iterations=15, validation_share=0.4, device="cpu", precision="float32", threads=1
)


def real_cases(first: int, end: int) -> tuple[Case, ...]:
    """Cases by their place in the folder's order."""
    return read_labelled(HIPPOCAMPI, CLASSES).cases[first:end]


def publish_beginner(models: Path, cases: Sequence[Case], work: Path) -> Path:
    """Train on central cases, of which some are held out to calibrate and to guard the gate. Its folder."""
    labelled = read_labelled(HIPPOCAMPI, CLASSES)
    data = write_raw(labelled, tuple(case.id for case in cases), work / "central")
    dataset = read_dataset(data)
    trained = train_ensemble(RECIPE, dataset, work / "training", BEGINNER, SMALL)
    calibrate(trained, dataset)
    store = ChampionStore(models)
    champion = store.publish(RECIPE, trained)
    description = store.versions(RECIPE)[0].description
    remember_central(store.recipe_folder(RECIPE), data, dataset, protected_of(description))
    shutil.rmtree(work / "training")
    return champion
