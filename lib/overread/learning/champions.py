"""The weights in service, per recipe.

    <root>/<recipe>/<hash>/         an immutable ensemble folder; the hash is the start of its identity
    <root>/<recipe>/champion.json   {"champion": "<hash>", "history": [...]}, replaced atomically

Nothing is ever written into a published folder, so a reader never sees half a model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.storage import DESCRIPTION, read_description

MANIFEST = "champion.json"
HASH_LENGTH = 12
RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class ChampionStore:
    """Champions below one folder, such as `apps/radiology/model`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def recipes(self) -> list[str]:
        """Names of the recipes that have a champion."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{MANIFEST}"))

    def current(self, recipe: str) -> Path:
        """Folder of the champion. Raises NotFoundError where the recipe has none."""
        manifest = self.root / checked_recipe_name(recipe) / MANIFEST
        if not manifest.exists():
            raise NotFoundError(
                f"recipe {recipe!r} has no champion in {self.root}; train one with `overread train {recipe}`"
            )
        try:
            champion = json.loads(manifest.read_text())["champion"]
        except (ValueError, KeyError) as error:
            raise BadInputError(f"{manifest} is damaged: {error}") from error
        folder = manifest.parent / champion
        if not (folder / DESCRIPTION).exists():
            raise NotFoundError(f"{manifest} names champion {champion}, but {folder} is not there")
        return folder

    def publish(self, recipe: str, folder: Path) -> Path:
        """Copy a finished ensemble folder in and make it the champion. Returns the folder in service."""
        target_root = self.root / checked_recipe_name(recipe)
        target_root.mkdir(parents=True, exist_ok=True)
        champion = read_description(folder)["identity"][:HASH_LENGTH]
        target = target_root / champion
        if not target.exists():
            staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target_root))
            try:
                shutil.copytree(folder, staging / "ensemble")
                os.replace(staging / "ensemble", target)  # noqa: PTH105
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        manifest = target_root / MANIFEST
        history = json.loads(manifest.read_text())["history"] if manifest.exists() else []
        now = datetime.now(UTC).isoformat(timespec="seconds")
        history.append({"champion": champion, "since": now})
        temporary = target_root / f".{MANIFEST}"
        temporary.write_text(json.dumps({"champion": champion, "history": history}, indent=2) + "\n")
        temporary.replace(manifest)
        return target


def checked_recipe_name(name: str) -> str:
    """The name itself, if it can be a model name and a folder. Raises BadInputError otherwise."""
    if not RECIPE_NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} cannot name a recipe: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    return name
