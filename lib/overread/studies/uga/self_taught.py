"""The first model after it has taught itself: pseudo-labels of unlabelled pictures of every local place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from overread.ensemble.calibrate import calibrate
from overread.learning.central import read_central
from overread.learning.pseudo_labels import pseudo_cases, pseudo_labelled
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, training_set, with_unlabelled
from overread.studies.uga.bench import RECIPE, Bench, Told
from overread.studies.uga.places import local_pictures
from overread.studies.uga.protocol import PSEUDO, PSEUDO_SHARE


def self_taught(bench: Bench, told: Told) -> Path:
    """Folder of the model; trained once."""
    folder = bench.folder / PSEUDO
    if (folder / "model").exists():
        return folder / "model"
    first = bench.store.current(RECIPE)
    pictures = local_pictures(bench)
    pseudo = pseudo_labelled(
        first,
        pictures,
        folder / "labels",
        device=bench.device,
        seed=bench.seed,
        heard=lambda done, of: told("labelling by itself", done / of),
    )
    cases = training_set(first, read_central(bench.store.recipe_folder(RECIPE)), [], 0)
    trained = retrain(
        first,
        with_unlabelled(cases, pseudo),
        folder / "training",
        replace(bench.protocol.retraining(bench.seed * 100, bench.device), pseudo_share=PSEUDO_SHARE),
        progress=lambda now: told(now.stage, now.share),
    )
    calibrate(trained, cases.dataset, device=bench.device)
    shutil.copytree(trained, folder / ".model", dirs_exist_ok=True)
    (folder / ".model").rename(folder / "model")
    return folder / "model"


def taught_cases(bench: Bench) -> list[LocalCase]:
    """The pictures that taught it, with what it said of them."""
    return pseudo_cases(local_pictures(bench), bench.folder / PSEUDO / "labels")
