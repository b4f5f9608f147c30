"""A small world with two places: bright balls at the centre, dark balls here. Who learnt the one misses the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from overread.domain import Grid
from overread.ensemble.calibrate import calibrate
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import write_nifti
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.central import CentralData, remember_central
from overread.learning.champions import ChampionStore
from overread.learning.options import RetrainingOptions
from overread.learning.training_set import LocalCase
from overread.state.database import Database
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


class Place:
    """A hospital with the small world's champion: a studies folder, its database, its accepted labels.

    Attributes:
        models, studies, work: folders of the champion store, the images, and the cycle.
        url: the database's path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models, self.studies, self.work = (
            folder / "model",
            folder / "studies",
            folder / "training" / RECIPE,
        )
        self.url = str(folder / "state" / "overread.db")
        self.store = ChampionStore(self.models)

    @classmethod
    def found(cls, folder: Path, trained: Path) -> Place:
        """A new place with a copy of a champion store (see `publish_champion`) and no labels."""
        place = cls(folder)
        shutil.copytree(trained, place.models)
        for part in (place.studies, place.work):
            part.mkdir(parents=True)
        return place

    def open(self) -> tuple[Database, AcceptedLabels]:
        """The database and the label store; close the first."""
        database = Database.open(Path(self.url))
        return database, AcceptedLabels(self.studies / "accepted", database)

    def accept(self, cases: int, first: int = 0, seed: int = 100) -> None:
        """Let a reader open so many cases by hand and accept perfect labels."""
        database, accepted = self.open()
        rng = np.random.default_rng(seed)
        for index in range(first, first + cases):
            image, label = dark_ball(rng)
            name, grid = f"study_{index:02d}", Grid(image.shape, np.eye(4))
            write_nifti(self.studies / f"{name}.nii.gz", image, grid)
            submission = Submission(
                case_id=name,
                patient=f"patient {index}",
                rater="ada",
                recipe=RECIPE,
                classes=("background", "ball"),
            )
            accepted.add(label, grid, submission, 1000.0 + index)
        database.close()

    def image_of(self, case: str) -> Path | None:
        """The image of a case, if it is there."""
        path = self.studies / f"{case}.nii.gz"
        return path if path.exists() else None

    def request(self, **changes: object) -> Path:
        """`request.json` as the server writes it."""
        path = self.work / "request.json"
        options = {"iterations": 40, "rate_factor": 1.0, "precision": "float32", "threads": 1}
        content = {
            "recipe": RECIPE,
            "models": str(self.models),
            "studies": str(self.studies),
            "database": self.url,
            "device": "cpu",
            "id": "first",
            "checkpoint_every_s": 0.2,
            **options,
            **changes,
        }
        path.write_text(json.dumps(content))
        return path
