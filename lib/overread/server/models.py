"""The champions in service: found, loaded once, replaced when another one takes their place."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.storage import calibration_from_json, load_ensemble, read_description
from overread.learning.champions import ChampionStore
from overread.server.settings import Settings


class ServedModels:
    """Recipes with a champion, as the settings allow.

    Attributes:
        device: where the members compute.
        turn: held by the one inference that computes; two at a time on one device would only slow each other.
    """

    def __init__(self, store: ChampionStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.device = chosen_device(settings.device)
        self.turn = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: dict[str, tuple[Path, Ensemble]] = {}
        self._described: dict[Path, dict[str, Any]] = {}
        for name in settings.models or ():
            store.current(name)

    def names(self) -> list[str]:
        """Names of the models that can be asked now."""
        ready = self.store.recipes()
        return [name for name in self.settings.models or ready if name in ready]

    def current(self, recipe: str) -> Path:
        """Folder of the champion in service.

        Raises:
            NotFoundError: no such model; the message lists those that there are.
        """
        names = self.names()
        if recipe not in names:
            served = f"there are {', '.join(names)}" if names else "no model is served yet"
            raise NotFoundError(f"no model is called {recipe!r}; {served}")
        return self.store.current(recipe)

    def description(self, recipe: str) -> dict[str, Any]:
        """The champion's `ensemble.json`, without loading any weights."""
        folder = self.current(recipe)
        if folder not in self._described:
            self._described[folder] = read_description(folder)
        return self._described[folder]

    def classes(self, recipe: str) -> tuple[str, ...]:
        """Class names of the champion, the background first."""
        return tuple(self.description(recipe)["classes"])

    def calibration(self, recipe: str) -> Calibration:
        """What validation cases said about the champion."""
        return calibration_from_json(self.description(recipe).get("calibration"))

    def ensemble(self, recipe: str) -> Ensemble:
        """The champion itself. A champion that was published meanwhile is loaded; the old one is dropped."""
        folder = self.current(recipe)
        with self._loading:
            loaded = self._loaded.get(recipe)
            if loaded is None or loaded[0] != folder:
                self._loaded[recipe] = (folder, load_ensemble(folder, self.device))
            return self._loaded[recipe][1]

    def member_count(self, recipe: str) -> int:
        """How many members the champion has; its number of files until it is loaded."""
        folder = self.current(recipe)
        loaded = self._loaded.get(recipe)
        if loaded is not None and loaded[0] == folder:
            return len(loaded[1].members)
        return max(1, len(self.description(recipe)["members"]))

    def with_classes(self, names: set[str]) -> list[str]:
        """Models that know all these class names."""
        return [recipe for recipe in self.names() if names <= set(self.classes(recipe))]


def chosen_device(name: str) -> torch.device:
    """The device that `--conf device` names. Raises BadInputError where it is not there."""
    available = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise BadInputError(f"--conf device {name}: this machine has {available} CUDA devices; try auto")
    return device


def limit_threads(threads: int | None) -> int:
    """Leave one core to light requests, unless told otherwise. Returns the number of threads set.

    Two threads on two cores that are also used otherwise wait for each other at every step, which made an
    inference 3 to 4 times slower than one thread did.
    """
    free = max(1, len(os.sched_getaffinity(0)) - 1)
    chosen = threads or min(free, torch.get_num_threads())
    torch.set_num_threads(chosen)
    return chosen
