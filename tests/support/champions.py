"""Champions that train within seconds, and local cases for them."""

from pathlib import Path

import numpy as np

from overread.ensemble.calibrate import calibrate, calibrate_on
from overread.ensemble.storage import read_description
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.learning.central import CentralData, protected_of, remember_central
from overread.learning.champions import ChampionStore
from overread.learning.training_set import LocalCase
from overread.meduhip.lessons import SingleLessons
from overread.meduhip.teach import Wishes, teach
from support.datasets import ball, write_nifti_case

TINY = {"features": (4, 8, 16)}
# The smallest MedUHIP model.
TAUGHT = {
    "width": 4,
    "components": 2,
    "dimension": 2,
    "samples": 4,
    "prompt_width": 4,
    "episode": {"turns": 2, "samples": 2, "candidates": 2},
}


def train_champion(
    data: Path,
    folder: Path,
    *,
    members: int = 2,
    iterations: int = 60,
    scheme: str = "deep",
    validation_share: float = 0.25,
) -> tuple[Path, CentralData]:
    """A recipe `ball` below `folder`, trained on `data` in float32 on one core: always the same."""
    options = TrainingOptions(
        members=members,
        scheme=scheme,  # type: ignore[arg-type]
        iterations=iterations,
        validation_share=validation_share,
        device="cpu",
        precision="float32",
        threads=1,
    )
    dataset = read_dataset(data)
    champion = train_ensemble("ball", dataset, folder / "work", options, TINY)
    central = remember_central(folder / "ball", data, dataset, protected_of(read_description(champion)))
    return champion, central


def publish_beginner(app_dir: Path, data: Path, work: Path) -> None:
    """A recipe `ball` of an app: two members after two steps, and where their data lie. It draws nothing useful."""
    dataset = read_dataset(data)
    options = TrainingOptions(
        members=2, iterations=2, validation_share=0.3, device="cpu", precision="float32", threads=1
    )
    trained = train_ensemble("ball", dataset, work, options, TINY)
    calibrate(trained, dataset)
    store = ChampionStore(app_dir / "model")
    store.publish("ball", trained)
    held_out = store.versions("ball")[0].description["plan"]["held_out"][0]
    remember_central(store.recipe_folder("ball"), data, dataset, held_out)


def publish_taught(models: Path, recipe: str, data: Path, work: Path) -> None:
    """A MedUHIP model of a champion store after three steps, and where its data lie. It draws nothing useful."""
    dataset = read_dataset(data)
    lessons = SingleLessons(dataset)
    wishes = Wishes.of(TAUGHT, iterations=3, device="cpu", threads=1)
    plan = {"patch": (16, 16, 16), "batch": 2}
    taught = teach(recipe, lessons, work, wishes, plan_overrides=plan, validation_share=0.25)
    calibrate_on(taught, lessons.name, lessons.patients, lessons.judged)
    store = ChampionStore(models)
    store.publish(recipe, taught)
    held_out = store.versions(recipe)[0].description["plan"]["held_out"][0]
    remember_central(store.recipe_folder(recipe), data, dataset, held_out)


def local_balls(folder: Path, cases: int, protected: int = 0, seed: int = 100) -> list[LocalCase]:
    """Cases `ball_00` and so on with their own patients, the first `protected` of them kept from training."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(cases):
        name = f"ball_{index:02d}"
        image, label = ball((16, 16, 16), rng)
        write_nifti_case(folder, name, [image], label)
        found.append(
            LocalCase(
                name,
                (folder / "imagesTr" / f"{name}_0000.nii.gz",),
                folder / "labelsTr" / f"{name}.nii.gz",
                f"patient {index}",
                index < protected,
            )
        )
    return found
