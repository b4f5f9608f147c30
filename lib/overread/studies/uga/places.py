"""A model at work at several places: as it is, or at each with the batch statistics of that place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from overread.ensemble.adabn import adapt_ensemble
from overread.ensemble.ensemble import Ensemble
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
                [(picture,) for picture in self._pictures[domain]],
                out,
                device=self.bench.device,
                seed=self.bench.seed,
            )
        return self.bench.load(out)

    @cached_property
    def _pictures(self) -> dict[str, list[Path]]:
        """Patches of each place's pool; of the first place, which has none, those that the first model learnt from."""
        bench = self.bench
        rng = np.random.default_rng([bench.seed, 9])
        found = dict.fromkeys(bench.division.test, sorted((bench.central / "imagesTr").glob("*")))
        for domain, ids in bench.division.pool.items():
            cases = [bench.study_set.by_id[name] for name in ids]
            drawn = [random_patch(bench, cases[number % len(cases)], rng) for number in range(PATCHES)]
            found[domain] = [path for where in drawn if (path := bench.image_of(where.name)) is not None]
        return found


@contextmanager
def looking(bench: Bench, model: Path, folder: Path) -> Iterator[Looking]:
    """Who looks at cases under the protocol of a study; adapted ensembles are kept in a folder that goes at the end."""
    if not bench.protocol.by_place:
        yield everywhere(bench.load(model))
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield AtPlaces(bench, model, folder)
    shutil.rmtree(folder)
