"""A model at work at several places: as it is, or at each with the batch statistics of that place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain.labels import IGNORE
from overread.ensemble.adabn import adapt_ensemble
from overread.ensemble.ensemble import Ensemble
from overread.learning.training_set import LocalCase
from overread.studies.uga.bench import Bench
from overread.studies.uga.judging import random_patch
from overread.studies.uga.looking import Looking, everywhere

# Patches of a place that its batch statistics are taken from.
PATCHES = 24


@dataclass(frozen=True)
class AtPlaces:
    """A model with the batch statistics of each place, from pictures whose labels nobody looks at.

    Attributes:
        bench: whose places.
        model: folder of the ensemble.
        folder: keeps one ensemble a place.
    """

    bench: Bench
    model: Path
    folder: Path

    def __call__(self, domain: str) -> Ensemble:
        """The ensemble that looks at cases of that domain."""
        out = self.folder / f"at_{sorted(self.bench.division.test).index(domain)}"
        if not out.exists():
            adapt_ensemble(
                self.model,
                [(picture,) for picture in self.pictures[domain]],
                out,
                device=self.bench.device,
                seed=self.bench.seed,
            )
        return self.bench.load(out)

    @cached_property
    def pictures(self) -> dict[str, list[Path]]:
        """Patches of each place's pool; of the first place, which has none, those that the first model learnt from."""
        central = sorted((self.bench.central / "imagesTr").glob("*"))
        return dict.fromkeys(self.bench.division.test, central) | local_pictures(self.bench)


def local_pictures(bench: Bench) -> dict[str, list[Path]]:
    """Patches anywhere in the tissue of each local place's pool, which nobody needs to label."""
    rng = np.random.default_rng([bench.seed, 9])
    found = {}
    for domain, ids in bench.division.pool.items():
        cases = [bench.study_set.by_id[name] for name in ids]
        drawn = [random_patch(bench, cases[number % len(cases)], rng) for number in range(PATCHES)]
        found[domain] = [path for where in drawn if (path := bench.image_of(where.name)) is not None]
    return found


def unlabelled_cases(bench: Bench, count: int, labels: Path) -> list[LocalCase]:
    """So many of these pictures of each place as cases of which nobody labelled anything.

    Args:
        labels: folder that their empty labels are written to.
    """
    labels.mkdir(parents=True, exist_ok=True)
    cases = []
    for domain, pictures in local_pictures(bench).items():
        for picture in pictures[:count]:
            label = labels / f"{picture.stem}.png"
            with Image.open(picture) as opened:
                Image.new("L", opened.size, IGNORE).save(label)
            name = f"beside-{picture.stem}"
            cases.append(LocalCase(name, (picture,), label, name, False, domain))
    return cases


@contextmanager
def at_each_place(bench: Bench, model: Path, folder: Path) -> Iterator[Looking]:
    """Who looks at cases under the protocol of a study; adapted ensembles are kept in a folder that goes at the end."""
    if not bench.protocol.by_place:
        yield everywhere(bench.load(model))
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield AtPlaces(bench, model, folder)
    shutil.rmtree(folder)
