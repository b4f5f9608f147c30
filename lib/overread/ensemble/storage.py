"""Ensembles on disk: one self-describing, immutable folder each.

    <folder>/ensemble.json    kind, name, classes, channels, plan (the kind's own), calibration, members' sha256
    <folder>/member_0.pt …    plain state dicts (or whatever the kind keeps)

A kind (`dynunet`, `nnunet`, `bundle`, `meduhip`) registers a loader: `(folder, description, device) -> Ensemble`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overread.domain import BadInputError, NotFoundError, Registry
from overread.ensemble.ensemble import Ensemble
from overread.uncertainty.calibration import Calibration, Cascade, DoubtBands

DESCRIPTION = "ensemble.json"
FORMAT = 1

Loader = Callable[[Path, dict[str, Any], torch.device], Ensemble]
KINDS: Registry[Loader] = Registry("kind of ensemble")
# Where each kind's loader registers itself; imported when first needed, so that an absent extra hurts nobody else.
MODULES = {
    "dynunet": "overread.ensemble.dynunet",
    "nnunet": "overread.ensemble.nnunet",
    "bundle": "overread.ensemble.bundle",
    "threshold": "overread.ensemble.threshold",
    "meduhip": "overread.meduhip.storage",
}


def write_description(folder: Path, description: dict[str, Any]) -> str:
    """Complete and write `ensemble.json` for a folder whose member files are in place.

    Args:
        folder: holds the members' files.
        description: `kind`, `name`, `classes`, `channels`, `plan`, `members` (file names), `calibration` (dict).

    Returns:
        The identity: sha256 over the description and the members' files.
    """
    files = {name: _sha256(folder / name) for name in description["members"]}
    complete = {"format": FORMAT, **description, "sha256": files}
    complete.pop("identity", None)
    identity = hashlib.sha256(json.dumps(complete, sort_keys=True).encode()).hexdigest()
    complete["identity"] = identity
    temporary = folder / f".{DESCRIPTION}"
    temporary.write_text(json.dumps(complete, indent=2) + "\n")
    temporary.replace(folder / DESCRIPTION)
    return identity


def read_description(folder: Path) -> dict[str, Any]:
    """The parsed `ensemble.json`. Raises NotFoundError or BadInputError with the folder's name."""
    path = folder / DESCRIPTION
    if not path.exists():
        raise NotFoundError(f"{folder} holds no {DESCRIPTION}: it is not a trained ensemble")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise BadInputError(f"{path} is not valid JSON: {error}") from error
    if description.get("format") != FORMAT:
        raise BadInputError(f"{path} has format {description.get('format')}, this version reads {FORMAT}")
    return description


def load_ensemble(folder: Path, device: torch.device | str = "cpu", *, verify: bool = True) -> Ensemble:
    """Load an ensemble of any kind.

    Raises:
        NotFoundError: no ensemble there. BadInputError: a member's file is missing or was changed.
    """
    description = read_description(folder)
    check_files(folder, description, verify=verify)
    kind = description["kind"]
    if kind in MODULES:
        importlib.import_module(MODULES[kind])
    return KINDS[kind](folder, description, torch.device(device))


def check_files(folder: Path, description: dict[str, Any], *, verify: bool = True) -> None:
    """Raise BadInputError where a member's file is missing or, with `verify`, was changed."""
    for name, expected in description["sha256"].items():
        if not (folder / name).exists():
            raise BadInputError(f"{folder / name} is missing")
        if verify and _sha256(folder / name) != expected:
            raise BadInputError(f"{folder / name} is not the file that was trained: its sha256 differs")


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """Plain JSON for `ensemble.json`."""
    return asdict(calibration)


def calibration_from_json(values: dict[str, Any] | None) -> Calibration:
    """The inverse of `calibration_to_json`; None gives the neutral calibration."""
    if not values:
        return Calibration()
    bands = {name: DoubtBands(**band) for name, band in values.get("bands", {}).items()}
    cascade = Cascade(**values["cascade"]) if values.get("cascade") else None
    return Calibration(**{**values, "bands": bands, "cascade": cascade})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def reference_of(description: Mapping[str, Any]) -> np.ndarray | None:
    """The colours that an ensemble's pictures were brought to, by its `ensemble.json`; None where they were not."""
    colours = description.get("colours")
    return None if colours is None else np.array(colours, dtype=float)
