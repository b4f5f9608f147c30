"""MedUHIP champions for slides, set by hand: each component of the sampling space has one opinion of every pixel."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from overread.ensemble.plan import Normalisation, Plan
from overread.learning.champions import ChampionStore
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import save_model

# Kept above 0, a sample goes through the decoder's layers unchanged.
HIGH = 1000.0
# Argument of softplus: a component's own draws are alike.
NO_SPREAD = -20.0


def write_slide_styles(
    folder: Path, structures: Sequence[Sequence[float]], *, name: str = "styles", um: float = 1.0
) -> None:
    """The model as an ensemble folder.

    Args:
        structures: for each structure the logit of each component, wherever it is asked.
    """
    plan = Plan(
        spacing_mm=(1.0, 1.0),
        patch=(64, 64),
        batch=1,
        kernels=((3, 3),) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        features=(4, 4, 4),
        normalisation=(Normalisation("rgb"),) * 3,
        mirror_axes=(),
        classes=len(structures) + 1,
        um_per_px=um,
    )
    configuration = Configuration(
        channels=3,
        structures=len(structures),
        width=2,
        components=len(structures[0]),
        dimension=2,
        samples=8,
        prompt_width=4,
    )
    torch.manual_seed(0)
    model = MedUHIP(configuration).eval()
    with torch.no_grad():
        for structure, logits in enumerate(structures):
            _set(model, structure, logits)
    classes = ("background", "Tumor", "Necrosis")[: len(structures) + 1]
    save_model(folder, model, plan, name=name, classes=classes, channels=("R", "G", "B"), training={})


def publish_slide_styles(app_dir: Path, recipe: str, structures: Sequence[Sequence[float]]) -> None:
    """Make such a model a recipe's champion."""
    staging = app_dir / "staging" / recipe
    write_slide_styles(staging, structures, name=recipe)
    ChampionStore(app_dir / "model").publish(recipe, staging)
    shutil.rmtree(staging.parent)


def _set(model: MedUHIP, structure: int, logits: Sequence[float]) -> None:
    decoder = model.backend.decoders[structure]  # type: ignore[attr-defined]
    for part in (decoder.refine.out, decoder.plain, decoder.from_features, decoder.middle, decoder.last):
        part.weight.zero_()
        part.bias.zero_()
    decoder.from_features.bias[0] = HIGH
    decoder.from_sample.weight.zero_()
    decoder.from_sample.weight[0, 0] = 1
    decoder.middle.weight[0, 0] = 1
    decoder.last.weight[0, 0] = 1
    decoder.last.bias[0] = -HIGH
    net = model.sampling(structure).mean_variance
    last = net.layers[-1]
    last.weight.zero_()  # type: ignore[operator]
    last.bias.zero_()  # type: ignore[operator]
    last.bias[len(last.bias) // 2 :] = NO_SPREAD  # type: ignore[index, arg-type]
    net.bank.zero_()
    net.bank[:, 0] = torch.tensor(logits)
