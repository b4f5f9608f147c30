"""A small world with two places: bright balls at the centre, dark balls here. Who learnt the one misses the other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from overread.ensemble.calibrate import calibrate
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.learning.central import CentralData, remember_central
from overread.learning.champions import ChampionStore
from overread.learning.retraining import RetrainingOptions
from overread.learning.training_set import LocalCase
from support.datasets import ball, write_balls, write_nifti_case

RECIPE = "ball"
CASES = 8
TINY = {"features": (8, 16, 32)}
# float32 on one core: the same numbers every time.
EXACT = TrainingOptions(members=2, iterations=40, device="cpu", precision="float32", threads=1)
# As eager as the first training, half of the patches central.
GOOD = RetrainingOptions(
    iterations=40, rate_factor=1.0, device="cpu", precision="float32", threads=1, checkpoint_every_s=0.5
)


def write_central(folder: Path) -> Path:
    """The central data set: bright balls."""
    return write_balls(folder, CASES)


def publish_champion(models: Path, data: Path, work: Path) -> CentralData:
    """Train two members on the central data, calibrate, publish, and remember the data."""
    dataset = read_dataset(data)
    trained = train_ensemble(RECIPE, dataset, work, EXACT, TINY)
    calibrate(trained, dataset)
    store = ChampionStore(models)
    champion = store.publish(RECIPE, trained)
    held_out = store.versions(RECIPE)[0].description["plan"]["held_out"]
    assert champion == store.current(RECIPE)
    return remember_central(store.recipe_folder(RECIPE), data, dataset, held_out[0])


def dark_ball(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A ball as it looks here: what was bright is dark."""
    image, label = ball((16, 16, 16), rng)
    return (20 - image).astype(np.float32), label


def write_local(
    folder: Path, cases: int, protected: Collection[int] = (), seed: int = 100, shuffled: bool = False
) -> list[LocalCase]:
    """Cases of this place, each a patient of its own.

    Args:
        protected: numbers of the cases that the control arm drew.
        shuffled: give the unprotected cases labels whose voxels were put in random order.
    """
    rng = np.random.default_rng(seed)
    found = []
    for index in range(cases):
        image, label = dark_ball(rng)
        if shuffled and index not in protected:
            label = rng.permutation(label.ravel()).reshape(label.shape)
        name = f"study_{index:02d}"
        write_nifti_case(folder, name, [image], label)
        found.append(
            LocalCase(
                name,
                (folder / "imagesTr" / f"{name}_0000.nii.gz",),
                folder / "labelsTr" / f"{name}.nii.gz",
                f"patient {index}",
                index in protected,
            )
        )
    return found
