"""The place where processes are killed: a tiny champion that learns within seconds, tiny studies, and the real server.

<folder>/central/    what the champion was trained on
<folder>/app/        a copy of the app; the champion, the database and the trainer's work lie below it
<folder>/studies/    what the readers label
<folder>/server.log
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from overread.domain import Grid, OverreadError
from overread.ensemble.calibrate import calibrate
from overread.ensemble.training import TrainingOptions, train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import write_nifti
from overread.learning.central import protected_of, remember_central
from overread.learning.champions import ChampionStore
from overread.state.database import default_path

RECIPE, FINDING = "ball", "ball"
SHAPE = (16, 16, 16)
GRID = Grid(SHAPE, np.eye(4))
CENTRAL_CASES = 8
# After so few steps a champion draws nothing useful: nearly every challenger is better.
STARTER_STEPS, CHALLENGER_STEPS = 2, 12
# Two hundred times what it takes on an idle machine: a start that fails is seen by the process's end.
LONGEST_START_S = 1200
# What `children` calls our processes, by a word of their command.
TRAINER, SCORER = "trainer", "scorer"
PROGRAMS = {"overread.learning.process": TRAINER, "overread.queue.scorer": SCORER}


@dataclass(frozen=True)
class Place:
    """Folders of one server, and what is true of its studies.

    Attributes:
        folder: see the module.
        cases: how many studies there are.
        seed: of the studies.
        starter: the first champion.
    """

    folder: Path
    cases: int
    seed: int
    starter: str

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    @property
    def training(self) -> Path:
        """Where request and progress of the trainer lie."""
        return self.app / "training" / RECIPE

    @property
    def store(self) -> ChampionStore:
        return ChampionStore(self.app / "model")

    @property
    def database(self) -> Path:
        return default_path(self.app)

    def names(self) -> list[str]:
        """Ids of the studies."""
        return [f"study {index:02d}" for index in range(self.cases)]

    def truth(self, case: str) -> np.ndarray:
        """The right label of a study, `(i, j, k)`."""
        return ball(np.random.default_rng([self.seed, self.names().index(case)]))[1]


def make_place(app: Path, folder: Path, cases: int, seed: int) -> Place:
    """Train the starter, publish it in a copy of the app, and write the studies.

    Args:
        app: folder of our app.
        folder: must not exist.
    """
    (folder / "app").mkdir(parents=True)
    shutil.copy(app / "main.py", folder / "app")
    rng = np.random.default_rng([seed, CENTRAL_CASES, cases])
    for index in range(CENTRAL_CASES):
        image, label = ball(rng)
        write_nifti(folder / "central" / "imagesTr" / f"c{index}_0000.nii.gz", image, GRID)
        write_nifti(folder / "central" / "labelsTr" / f"c{index}.nii.gz", label, GRID)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, FINDING: 1},
        "numTraining": CENTRAL_CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "central" / "dataset.json").write_text(json.dumps(description))
    place = Place(folder, cases, seed, _publish_starter(folder, seed))
    for index, case in enumerate(place.names()):
        write_nifti(place.studies / f"{case}.nii.gz", ball(np.random.default_rng([seed, index]))[0], GRID)
    return place


def ball(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise, and where it is."""
    radius = rng.uniform(3, 5)
    centre = [rng.uniform(radius + 1, size - radius - 1) for size in SHAPE]
    distance = np.linalg.norm(np.indices(SHAPE).T - centre, axis=-1).T
    label = (distance < radius).astype(np.uint8)
    return (10 + rng.normal(0, 1, SHAPE) + 4 * label).astype(np.float32), label


def _publish_starter(folder: Path, seed: int) -> str:
    data = folder / "central"
    dataset = read_dataset(data)
    options = TrainingOptions(
        members=2,
        iterations=STARTER_STEPS,
        validation_share=0.3,
        seed=seed,
        device="cpu",
        precision="float32",
        threads=1,
    )
    trained = train_ensemble(RECIPE, dataset, folder / "starter", options, {"features": (4, 8, 16)})
    calibrate(trained, dataset)
    store = ChampionStore(folder / "app" / "model")
    published = store.publish(RECIPE, trained)
    held_out = protected_of(store.versions(RECIPE)[0].description)
    remember_central(store.recipe_folder(RECIPE), data, dataset, held_out)
    return published.name


class Server:
    """`monailabel start_server` in a process of its own, which may be killed and started again.

    Attributes:
        url: the same after each start.
    """

    def __init__(self, place: Place) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._place = place
        self._log = place.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start it, without waiting."""
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(self._place.app)]
        command += ["--studies", str(self._place.studies), "--host", "127.0.0.1", "--port", str(self._port)]
        conf = {"device": "cpu", "precision": "full", "threads": 1, "train_iterations": CHALLENGER_STEPS}
        # Few servings are the control arm's, so that the gate judges by cross-validation for long.
        for key, value in (conf | {"control_share": 0.1, "train_start": "scratch"}).items():
            command += ["--conf", key, str(value)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MONAI_LABEL")}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def wait(self) -> None:
        """Return when it answers. Raises OverreadError where it ended instead, or takes too long."""
        deadline = time.monotonic() + LONGEST_START_S
        while time.monotonic() < deadline and self.alive():
            try:
                if requests.get(f"{self.url}/info/", timeout=10).ok:
                    return
            except requests.RequestException:
                time.sleep(0.05)
        said = self._log.read_text(errors="replace")[-3000:]
        raise OverreadError(f"the server did not start: {said}")

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def children(self) -> dict[str, psutil.Process]:
        """The trainer and the scorer, those that run."""
        if self._process is None:
            return {}
        found = {}
        try:
            for child in psutil.Process(self._process.pid).children():
                words = child.cmdline()
                found |= {name: child for program, name in PROGRAMS.items() if program in words}
        except psutil.NoSuchProcess:
            # It ended while it was looked at.
            return found
        return found

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        if self._process is not None and self.alive():
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file that others replace; empty where it is not there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
