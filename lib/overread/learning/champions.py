"""The weights in service, per recipe, and those that were before.

    <root>/<recipe>/<hash>/         an immutable ensemble folder; the hash is the start of its identity
    <root>/<recipe>/champion.json   {"champion": "<hash>", "history": [...]}, replaced atomically
    <root>/<recipe>/.lock           held by whoever changes one of the two

Nothing is ever written into a folder that is in, so a reader never sees half a model and needs no lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.storage import DESCRIPTION, read_description
from overread.learning.durable import copy_tree, sync_folder, write_json_durably

MANIFEST = "champion.json"
LOCK = ".lock"
INCOMING = ".incoming-"
HASH_LENGTH = 12
RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Term:
    """One time that a version went into service.

    Attributes:
        champion: the version.
        since: when, ISO 8601 in UTC.
        why: in words; empty for one that was trained or imported by hand.
        rollback: whether an earlier version came back.
    """

    champion: str
    since: str
    why: str = ""
    rollback: bool = False


@dataclass(frozen=True)
class Version:
    """One set of weights in the store.

    Attributes:
        identity: name of its folder.
        folder: where it lies.
        parent: the version it was trained from; empty for one that was not.
        terms: when it was in service, oldest first; none for one that never was.
        is_champion: whether it is in service now.
        description: its `ensemble.json`; empty where that cannot be read.
        damage: why it cannot be used, in words; empty for a sound one.
    """

    identity: str
    folder: Path
    parent: str
    terms: tuple[Term, ...]
    is_champion: bool
    description: dict[str, Any]
    damage: str


class ChampionStore:
    """Champions below one folder, such as `apps/radiology/model`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def recipes(self) -> list[str]:
        """Names of the recipes that have a champion."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{MANIFEST}"))

    def recipe_folder(self, recipe: str) -> Path:
        """Where everything about a recipe lies; need not exist yet."""
        return self.root / checked_recipe_name(recipe)

    def current(self, recipe: str) -> Path:
        """Folder of the champion.

        Raises:
            NotFoundError: the recipe has none, or its folder is gone. BadInputError: it cannot be read.
        """
        manifest = self.recipe_folder(recipe) / MANIFEST
        if not manifest.exists():
            raise NotFoundError(
                f"recipe {recipe!r} has no champion in {self.root}; train one with `overread train {recipe}`"
            )
        champion, _ = _read_manifest(manifest)
        folder = manifest.parent / champion
        remedy = f"go back to an earlier one with `overread models rollback {recipe}`"
        if not (folder / DESCRIPTION).exists():
            raise NotFoundError(f"{manifest} names champion {champion}, but {folder} is not there; {remedy}")
        if damage := _damage(folder):
            raise BadInputError(f"champion {champion} of {recipe} is damaged: {damage}; {remedy}")
        return folder

    def folder(self, recipe: str, version: str) -> Path:
        """Folder of one version, in service or not; the beginning of its name is enough.

        Raises:
            NotFoundError: none begins so. BadInputError: several do.
        """
        names = [path.name for path in self._folders(recipe)]
        found = [name for name in names if version and name.startswith(version[:HASH_LENGTH])]
        if not found:
            there = f"there are {', '.join(names)}" if names else "there is none"
            raise NotFoundError(f"recipe {recipe!r} has no version {version!r}; {there}")
        if len(found) > 1:
            raise BadInputError(
                f"version {version!r} of {recipe!r} can be {' or '.join(found)}; write more of it"
            )
        return self.recipe_folder(recipe) / found[0]

    def history(self, recipe: str) -> tuple[Term, ...]:
        """All changes of the champion, oldest first; empty where there never was one."""
        manifest = self.recipe_folder(recipe) / MANIFEST
        return _read_manifest(manifest)[1] if manifest.exists() else ()

    def versions(self, recipe: str) -> list[Version]:
        """Every version in the store: those that were in service by their first time, then the others by name.

        Raises NotFoundError where the recipe has none.
        """
        manifest = self.recipe_folder(recipe) / MANIFEST
        champion, history = _read_manifest(manifest) if manifest.exists() else ("", ())
        order = {term.champion: index for index, term in reversed(list(enumerate(history)))}
        folders = self._folders(recipe)
        if not folders and not history:
            raise NotFoundError(f"recipe {recipe!r} has no version in {self.root}")
        found = []
        for folder in sorted(folders, key=lambda path: (order.get(path.name, len(history)), path.name)):
            damage = _damage(folder)
            description = {} if damage else read_description(folder)
            found.append(
                Version(
                    identity=folder.name,
                    folder=folder,
                    parent=str(description.get("parent") or "")[:HASH_LENGTH],
                    terms=tuple(term for term in history if term.champion == folder.name),
                    is_champion=folder.name == champion,
                    description=description,
                    damage=damage,
                )
            )
        return found

    def add(self, recipe: str, folder: Path) -> Path:
        """Copy a finished ensemble folder in without putting it into service. Returns the copy.

        The copy is on the disk when this returns; a copy that was interrupted is not seen, and is swept away here.
        """
        target_root = self.recipe_folder(recipe)
        identity = read_description(folder)["identity"][:HASH_LENGTH]
        target_root.mkdir(parents=True, exist_ok=True)
        with self._changing(recipe):
            for leftover in target_root.glob(f"{INCOMING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            target = target_root / identity
            if not target.exists():
                staging = Path(tempfile.mkdtemp(prefix=INCOMING, dir=target_root))
                try:
                    copy_tree(folder, staging / "ensemble")
                    os.replace(staging / "ensemble", target)  # noqa: PTH105
                    sync_folder(target_root)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        return target

    def promote(self, recipe: str, version: str, *, why: str = "", instead_of: str | None = None) -> Path:
        """Put a version that is in the store into service. Nothing happens where it is already.

        Args:
            why: kept in the history.
            instead_of: the champion that it was compared with.

        Raises:
            NotFoundError: no such version. BadInputError: it is damaged, or another than `instead_of` is in service.
        """
        with self._changing(recipe):
            return self._put_into_service(recipe, self.folder(recipe, version), why, instead_of=instead_of)

    def rollback(self, recipe: str, to: str | None = None, *, why: str = "rolled back") -> Path:
        """Put an earlier champion back into service: the one before the current, or the one that is named.

        Doing it twice goes back twice. Works where the current champion is damaged or gone.

        Raises:
            NotFoundError: there is no such, or no earlier champion. BadInputError: it never was in service, is
                already, or is damaged.
        """
        with self._changing(recipe):
            manifest = self.recipe_folder(recipe) / MANIFEST
            if not manifest.exists():
                raise NotFoundError(
                    f"recipe {recipe!r} has no champion in {self.root}, hence none to go back from"
                )
            champion, history = _read_manifest(manifest)
            target = self.folder(recipe, to) if to else self._before(recipe, champion, history)
            if target.name == champion:
                raise BadInputError(f"version {champion} of {recipe!r} is the champion already")
            if target.name not in {term.champion for term in history}:
                raise BadInputError(f"version {target.name} of {recipe!r} never was in service")
            return self._put_into_service(recipe, target, why, rollback=True)

    def publish(self, recipe: str, folder: Path) -> Path:
        """Copy a finished ensemble folder in and make it the champion. Returns the folder in service."""
        added = self.add(recipe, folder)
        return self.promote(recipe, added.name)

    @contextmanager
    def _changing(self, recipe: str) -> Iterator[None]:
        """One process at a time, one thread at a time."""
        folder = self.recipe_folder(recipe)
        if not folder.is_dir():
            raise NotFoundError(f"recipe {recipe!r} has no version in {self.root}")
        with FileLock(folder / LOCK):
            yield

    def _folders(self, recipe: str) -> list[Path]:
        folder = self.recipe_folder(recipe)
        if not folder.is_dir():
            return []
        # A folder without description still counts: it is what is left of a damaged version.
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _before(self, recipe: str, champion: str, history: tuple[Term, ...]) -> Path:
        """The sound champion that the current one took its place from."""
        arrived = [i for i, term in enumerate(history) if term.champion == champion and not term.rollback]
        earlier = history[: arrived[-1]] if arrived else ()
        for term in reversed(earlier):
            folder = self.recipe_folder(recipe) / term.champion
            if term.champion != champion and folder.is_dir() and not _damage(folder):
                return folder
        raise NotFoundError(f"recipe {recipe!r} has no usable champion from before {champion}")

    def _put_into_service(
        self, recipe: str, folder: Path, why: str, *, instead_of: str | None = None, rollback: bool = False
    ) -> Path:
        manifest = self.recipe_folder(recipe) / MANIFEST
        champion, history = _read_manifest(manifest) if manifest.exists() else ("", ())
        if champion == folder.name:
            return folder
        if instead_of is not None and champion != instead_of[:HASH_LENGTH]:
            raise BadInputError(
                f"version {folder.name} of {recipe!r} was to replace {instead_of[:HASH_LENGTH]}, "
                f"but {champion or 'nothing'} is in service now"
            )
        if damage := _damage(folder):
            raise BadInputError(f"version {folder.name} of {recipe!r} is damaged: {damage}")
        term = Term(folder.name, datetime.now(UTC).isoformat(timespec="seconds"), why, rollback)
        terms = [_term_to_json(known) for known in (*history, term)]
        write_json_durably(manifest, {"champion": folder.name, "history": terms})
        return folder


def checked_recipe_name(name: str) -> str:
    """The name itself, if it can be a model name and a folder. Raises BadInputError otherwise."""
    if not RECIPE_NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} cannot name a recipe: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    return name


def _damage(folder: Path) -> str:
    """What of a version is missing or cannot be read, without reading its weights; empty where nothing is."""
    try:
        description = read_description(folder)
    except BadInputError as error:
        return str(error)
    missing = [name for name in description.get("sha256", {}) if not (folder / name).exists()]
    return f"{', '.join(missing)} missing in {folder}" if missing else ""


def _read_manifest(manifest: Path) -> tuple[str, tuple[Term, ...]]:
    try:
        content = json.loads(manifest.read_text())
        terms = tuple(
            Term(term["champion"], term["since"], term.get("why", ""), bool(term.get("rollback", False)))
            for term in content["history"]
        )
        return str(content["champion"]), terms
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{manifest} is damaged: {error!r}") from error


def _term_to_json(term: Term) -> dict[str, Any]:
    words: dict[str, Any] = {"champion": term.champion, "since": term.since}
    if term.why:
        words["why"] = term.why
    return words | ({"rollback": True} if term.rollback else {})
