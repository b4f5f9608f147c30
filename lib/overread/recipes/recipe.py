"""What is served under one model name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from overread.domain import Registry


@dataclass(frozen=True)
class Recipe:
    """Everything that is decided before data are seen; classes and channels come from the data folder.

    Attributes:
        name: the model's name on the wire and of its folder of champions.
        description: one sentence for the viewer's tooltip.
        measure: the uncertainty map that is shown unless the reader picks another.
        members: how many networks are trained.
        scheme: `deep` trains all members on the same cases with other seeds and orders (Lakshminarayanan et al.
            2017); `folds` trains them by cross-validation, as UGA did.
        plan: overrides of the planned network, such as `{"patch": (64, 64, 64)}`.
        model: `ensemble`: several networks whose disagreement is shown; `meduhip`: one network that offers several
            plausible segmentations and follows the clinician.
        meduhip: of a model of that kind, fields of `meduhip.configuration.Configuration` and
            `meduhip.training.MedUHIPOptions` other than the defaults, such as `{"width": 32, "episode": {"turns": 4}}`
            or `{"backend": "sam", "size": "vit_b", "weights": "/data/medsam_vit_b.pth", "intensities": "medsam"}`.
            Relative paths lead from the folder of the recipes.
    """

    name: str
    description: str
    measure: str = "predictive_entropy"
    members: int = 5
    scheme: Literal["deep", "folds"] = "deep"
    plan: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    model: Literal["ensemble", "meduhip"] = "ensemble"
    meduhip: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


# Where recipes are, and their relative paths lead from.
FOLDER = Path(__file__).parent
RECIPES: Registry[Recipe] = Registry("recipe")


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; one with the defaults where none was written for it."""
    for module in pkgutil.iter_modules(importlib.import_module("overread.recipes").__path__):
        importlib.import_module(f"overread.recipes.{module.name}")
    return RECIPES[name] if name in RECIPES else Recipe(name, f"Segmentation: {name}")
