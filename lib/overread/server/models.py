"""The champions in service: found, loaded once, replaced when another one takes their place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from overread.domain import NotFoundError
from overread.ensemble.compute import choose_device
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.storage import calibration_from_json, load_ensemble, read_description
from overread.learning.champions import ChampionStore
from overread.meduhip.reader import Reader
from overread.meduhip.storage import load_reader
from overread.queue.scoring import CHAMPION_LENGTH
from overread.server.settings import Settings
from overread.state.scores import COLD


class ServedModels:
    """Recipes with a champion, as the settings allow.

    Attributes:
        device: where the members compute.
        turn: held by the one inference that computes; two at a time on one device would only slow each other.
    """

    def __init__(self, store: ChampionStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.device = choose_device(settings.device)
        self.turn = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: dict[str, tuple[Path, Ensemble]] = {}
        self._readers: dict[str, tuple[Path, Reader]] = {}
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

    def queued(self) -> str:
        """The model whose doubt orders the queue; empty where none is served, or not the one that was wished."""
        served, wanted = self.names(), self.settings.queue_recipe
        if wanted is not None:
            return wanted if wanted in served else ""
        return served[0] if served else ""

    def scored_as(self, recipe: str) -> str:
        """What scores of the recipe's champion are kept under; `COLD` where the recipe is empty."""
        return str(self.description(recipe)["identity"])[:CHAMPION_LENGTH] if recipe else COLD

    def description(self, recipe: str) -> dict[str, Any]:
        """The champion's `ensemble.json`, without loading any weights."""
        folder = self.current(recipe)
        if folder not in self._described:
            self._described[folder] = read_description(folder)
        return self._described[folder]

    def kind(self, recipe: str) -> str:
        """The champion's kind of ensemble."""
        return str(self.description(recipe)["kind"])

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

    def reader(self, recipe: str) -> Reader:
        """The champion itself, for turns. Raises BadInputError where it is of a kind that takes none."""
        folder = self.current(recipe)
        with self._loading:
            loaded = self._readers.get(recipe)
            if loaded is None or loaded[0] != folder:
                self._readers[recipe] = (folder, load_reader(folder, self.device))
            return self._readers[recipe][1]

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
