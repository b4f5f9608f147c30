"""The champions in service: found, loaded once, replaced when another one takes their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overread.domain import BadInputError, NotFoundError, OverreadError
from overread.ensemble.compute import choose_device
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.storage import calibration_from_json, load_ensemble, read_description
from overread.learning.champions import ChampionStore
from overread.meduhip.mirrors import AS_IT_IS
from overread.meduhip.reader import Reader
from overread.meduhip.storage import load_reader
from overread.queue.scoring import CHAMPION_LENGTH
from overread.server.faults import OutOfOrderError
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
        self._unloadable: dict[Path, str] = {}
        for name in settings.models or ():
            store.current(name)

    def names(self) -> list[str]:
        """Names of the models that can be asked now; one whose champion is damaged is not among them."""
        return [name for name in self._wanted() if not self.damage(name)]

    def troubles(self) -> dict[str, str]:
        """Models that should be served and cannot answer, and why, in words."""
        found = {}
        for name in self._wanted():
            damage = self.damage(name)
            sentence = damage or self._unloadable.get(self.store.current(name), "")
            if sentence:
                found[name] = sentence
        return found

    def damage(self, recipe: str) -> str:
        """What is wrong with a recipe's champion on the disk, without reading its weights; empty where nothing is."""
        try:
            self.store.current(recipe)
        except BadInputError as error:
            return str(error)
        return ""

    def current(self, recipe: str) -> Path:
        """Folder of the champion in service.

        Raises:
            NotFoundError: no such model; the message lists those that there are.
            OutOfOrderError: there is one, and it is damaged.
        """
        if recipe not in self._wanted():
            names = self.names()
            served = f"there are {', '.join(names)}" if names else "no model is served yet"
            raise NotFoundError(f"no model is called {recipe!r}; {served}")
        try:
            return self.store.current(recipe)
        except BadInputError as error:
            raise OutOfOrderError(
                f"the champion of {recipe} is damaged; {way_back(recipe)}", str(error)
            ) from error

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
                with self._noting_failure(recipe, folder):
                    self._loaded[recipe] = (folder, load_ensemble(folder, self.device))
            return self._loaded[recipe][1]

    def reader(self, recipe: str) -> Reader:
        """The champion itself, for turns. Raises BadInputError where it is of a kind that takes none."""
        folder = self.current(recipe)
        with self._loading:
            loaded = self._readers.get(recipe)
            if loaded is None or loaded[0] != folder:
                with self._noting_failure(recipe, folder):
                    reader = load_reader(folder, self.device)
                    if not self.settings.mirrors:
                        reader.model.mirrors = AS_IT_IS
                    self._readers[recipe] = (folder, reader)
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

    def _wanted(self) -> list[str]:
        """Recipes that have a champion and may be served, damaged or not."""
        ready = self.store.recipes()
        return [name for name in self.settings.models or ready if name in ready]

    @contextmanager
    def _noting_failure(self, recipe: str, folder: Path) -> Iterator[None]:
        """A champion that cannot be loaded is remembered, for whoever looks after the server.

        Raises OutOfOrderError in place of what the loader says.
        """
        try:
            yield
        except (OverreadError, OSError) as error:
            self._unloadable[folder] = f"champion {folder.name} of {recipe} cannot be loaded: {error}"
            raise OutOfOrderError(
                f"the champion of {recipe} cannot be loaded; {way_back(recipe)}", self._unloadable[folder]
            ) from error
        self._unloadable.pop(folder, None)


def way_back(recipe: str) -> str:
    """What to do about a champion that cannot be used."""
    return f"`overread models rollback {recipe}` goes back to an earlier one, and the server's log says what is wrong"
