"""The first model of a seed, taken over where a protocol differs only in what comes after it.

Studies of one set with other `--change`s lie side by side in a work folder. What a change of the asking or of the
retraining cannot touch is trained once:

    <work>/<set>/<protocol>/seed_0/none/unit.json       done under one protocol
    <work>/<set>/<other protocol>/seed_0/               gets copies of division, central data, model, maps and unit
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from overread.learning.central import read_central, write_central
from overread.studies.uga.bench import RECIPE, Bench
from overread.studies.uga.protocol import NONE

# Fields of the protocol that the first model, and what it says of the pool, do not depend on.
AFTERWARDS = (
    "budgets",
    "iterations",
    "begin",
    "replay_share",
    "rate_factor",
    "restained",
    "lent",
    "pooled",
    "gated",
    "obeyed",
    "peaks",
    "share",
    "queue",
    "by_place",
    "beside",
    "self_taught",
    "hed",
)


def take_over(bench: Bench) -> dict[str, Any] | None:
    """Copy the first model of another protocol that began alike, and return its unit; None where there is none.

    Stopped on the way, it begins anew: what is there is replaced.
    """
    found = _done_alike(bench)
    if found is None:
        return None
    for name in ("central", "maps", f"models/{RECIPE}"):
        _copied(found / name, bench.folder / name)
    # Retraining reads the central data where they are said to lie.
    recipe = bench.store.recipe_folder(RECIPE)
    write_central(recipe, replace(read_central(recipe), folder=bench.central.resolve()))
    return json.loads(_unit(found).read_text())


def _done_alike(bench: Bench) -> Path | None:
    """The same seed under another protocol, where the first model is done."""
    here = bench.folder.parent
    wanted = _before(json.loads(json.dumps(asdict(bench.protocol))))
    drawn = bench.division.to_json()
    for path in sorted(here.parent.glob("*/protocol.json")):
        seed = path.parent / bench.folder.name
        if path.parent == here or not _unit(seed).exists():
            continue
        if _before(json.loads(path.read_text())) != wanted:
            continue
        # Another first place has another division.
        if json.loads((seed / "division.json").read_text()) == json.loads(json.dumps(drawn)):
            return seed
    return None


def _before(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in protocol.items() if name not in AFTERWARDS}


def _unit(seed: Path) -> Path:
    return seed / NONE / "unit.json"


def _copied(source: Path, target: Path) -> None:
    """The whole folder or nothing of it."""
    staging = target.with_name(f".{target.name}")
    for old in (staging, target):
        shutil.rmtree(old, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, staging)
    staging.rename(target)
