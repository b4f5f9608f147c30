"""Batch statistics of another place: what can be learnt there from pictures that nobody labelled.

Li et al. 2016 (arXiv:1603.04779, AdaBN): a network normalised by batch keeps the mean and variance of its features
where it was trained; those of another laboratory, put in their place, take away much of what differs between the two.
No weight changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.ensemble.dynunet import load_member, member_weights
from overread.ensemble.plan import Plan
from overread.ensemble.preparation import prepare
from overread.ensemble.storage import calibration_to_json, read_description, write_description
from overread.imaging.volumes import read_volume
from overread.imaging.windows import padding_to
from overread.uncertainty.calibration import Calibration

# Batches that the statistics are the mean of: with 8 windows of 128 x 128 pixels more than two million pixels.
BATCHES = 20


def estimate_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the mean and variance that a network's batch norms use by those over these batches.

    Args:
        network: changed in its statistics alone.
        batches: of windows `(batch, channel, *patch)`, on the network's device; at least one.
    """
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    was_training, momenta = network.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None makes them plain means over all batches.
        norm.momentum = None
    network.train()
    with torch.no_grad():
        for windows in batches:
            network(windows)
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def adapt_member(plan: Plan, file: Path, batches: Iterable[torch.Tensor], device: torch.device) -> None:
    """Give the member in a file the statistics of these batches; the file is replaced whole."""
    network = load_member(plan, file, device)
    estimate_statistics(network, (windows.to(device) for windows in batches))
    temporary = file.with_name(f".{file.name}")
    torch.save(member_weights(network), temporary)
    temporary.replace(file)


def adapt_ensemble(
    folder: Path,
    images: Sequence[Sequence[Path]],
    out: Path,
    *,
    device: torch.device | str = "cpu",
    batches: int = BATCHES,
    seed: int = 0,
) -> Path:
    """Another ensemble, whose members have the batch statistics of these images. The first one stays as it is.

    Args:
        folder: of an ensemble of kind `dynunet` whose plan says `norm: batch`.
        images: the channel files of each; labels are not needed.
        out: the new folder; appears complete or not at all. It is not calibrated, and has an identity of its own.
        batches, seed: how many batches of windows are drawn, and by which chance.

    Raises:
        BadInputError: the ensemble has no batch statistics, there is no image or one cannot be read, or `out` exists.
    """
    description = read_description(folder)
    plan = adaptable_plan(description)
    if not images:
        raise BadInputError(f"{description['name']} cannot be adapted without an image of the new place")
    if out.exists():
        raise BadInputError(f"{out} exists already; an adapted ensemble gets a folder of its own")
    staging = out.with_name(f".{out.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in description["members"]:
        shutil.copyfile(folder / name, staging / name)
        windows = _windows(plan, images, batches, np.random.default_rng(seed))
        adapt_member(plan, staging / name, windows, torch.device(device))
    told = {
        "calibration": calibration_to_json(Calibration()),
        "parent": description["identity"],
        "adabn": {"images": len(images), "batches": batches, "seed": seed},
    }
    write_description(staging, {**description, **told})
    staging.rename(out)
    return out


def adaptable_plan(description: Mapping[str, Any]) -> Plan:
    """The plan of an ensemble that has batch statistics. Raises BadInputError for every other."""
    if description["kind"] != "dynunet":
        raise BadInputError(
            f"model {description['name']} is of kind {description['kind']}; batch statistics can be estimated anew for "
            "models that `overread train` made (kind dynunet)"
        )
    plan = Plan.from_json(description["plan"])
    if plan.norm != "batch":
        raise BadInputError(
            f"model {description['name']} normalises by {plan.norm} and keeps no batch statistics, so there is nothing "
            "to adapt; train it with norm: batch in its recipe's plan"
        )
    return plan


def _windows(
    plan: Plan, images: Sequence[Sequence[Path]], batches: int, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Batches of windows at random places, every image as often as the others."""
    wanted = batches * plan.batch
    rounds = -(-wanted // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])[:wanted]
    for batch in order.reshape(batches, plan.batch):
        yield torch.stack([_window(plan, images[index], rng) for index in batch])


def _window(plan: Plan, channels: Sequence[Path], rng: np.random.Generator) -> torch.Tensor:
    voxels = prepare(plan, read_volume(channels)).voxels
    padding = padding_to(tuple(voxels.shape[1:]), plan.patch)
    voxels = F.pad(voxels, [n for pair in reversed(padding) for n in pair])
    starts = [int(rng.integers(n - p + 1)) for n, p in zip(voxels.shape[1:], plan.patch, strict=True)]
    return voxels[(slice(None), *(slice(s, s + p) for s, p in zip(starts, plan.patch, strict=True)))]
