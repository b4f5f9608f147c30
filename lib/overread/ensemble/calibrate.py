"""Temperature and doubt bands of a trained ensemble, from cases that its members did not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.prediction import predict
from overread.ensemble.storage import calibration_to_json, load_ensemble, read_description, write_description
from overread.imaging.dataset import Dataset
from overread.imaging.volumes import Volume, read_label_of, read_volume
from overread.metrics.calibration import Reliability, foreground_region, plot_reliability, reliability
from overread.uncertainty.calibration import choose_bands, fit_temperature
from overread.uncertainty.measures import MEASURES

# Enough voxels a case for shares to three digits, few enough for a hundred large cases in memory.
REGION_VOXELS_PER_CASE = 20_000
BAND_VOXELS_PER_CASE = 300_000
# The reliability diagram, beside the members.
DIAGRAM = "reliability.png"


# From a case's id to its image, and class indices or `IGNORE` on the image's grid.
Read = Callable[[str], tuple[Volume, np.ndarray]]


@dataclass(frozen=True)
class _HeldOut:
    """A case and the members that may speak about it, having never seen it."""

    case: str
    members: tuple[int, ...]


def calibrate(
    folder: Path,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Calibration | None:
    """`calibrate_on` the cases of a data set."""
    cases = {case.id: case for case in dataset.cases}

    def read(case: str) -> tuple[Volume, np.ndarray]:
        volume = read_volume(cases[case].channels)
        return volume, read_label_of(cases[case].label, volume.grid)

    return calibrate_on(folder, dataset.name, cases, read, device=device, progress=progress)


def calibrate_on(
    folder: Path,
    name: str,
    cases: Collection[str],
    read: Read,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Calibration | None:
    """Fit the temperature and the doubt bands and write them into the ensemble's description.

    A reliability diagram of before and after is drawn beside it (`reliability.png`).

    Each case is predicted by the members that did not learn from it: all of a deep ensemble (whose held-out
    cases are shared), one fold of a cross-validation, either after a retraining. The
    temperature minimises the negative log likelihood
    near the structures (elsewhere everything is easy and would hide miscalibration), or everywhere where no held-out
    case has a structure; bands then count all voxels.
    Voxels that nobody labelled count in neither.

    One member is surer than the mean of several, and needs a higher temperature than they do together (Rahaman and
    Thiery, arXiv:2007.08792). How much higher is measured on the cases about which all may speak, and made up for in
    the others; without such cases the temperature is that of the members alone. By a measure of disagreement one
    member has no doubt, so its bands come from the cases of all members, and are left out where there is none.

    Args:
        folder: a trained ensemble; its plan's `held_out` names, per member, the cases it did not see.
        name: of the data set.
        cases: ids of all its cases.
        read: gives a case with its label.

    Returns:
        The calibration, or None where no case was held out (the folder is left as it was).

    Raises:
        BadInputError: a case that was held out is not among them.
    """
    description = read_description(folder)
    held_out = _held_out(description["plan"].get("held_out", []), name, cases)
    if not held_out:
        return None
    ensemble = replace(load_ensemble(folder, device), calibration=Calibration())
    generator = np.random.default_rng(0)
    steps = 2 * len(held_out)

    samples = []
    is_empty = not any(_holds_foreground(read(item.case)[1]) for item in held_out)
    for index, item in enumerate(held_out):
        samples.append(_region_logits(ensemble, item, read, device, generator, everywhere=is_empty))
        if progress is not None:
            progress((index + 1) / steps)
    everyone = tuple(range(len(ensemble.members)))
    temperatures = _temperatures(held_out, samples, everyone)

    doubts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in MEASURES}
    for index, item in enumerate(held_out):
        volume, truth = read(item.case)
        speaking = _speaking(ensemble, item, temperatures[item.members])
        measures = [
            name for name in MEASURES if item.members == everyone or not MEASURES[name].is_of_disagreement
        ]
        prediction = predict(speaking, volume, measures=measures, device=device)
        wrong = (prediction.labels != truth).ravel()
        chosen = _some(np.flatnonzero(truth != IGNORE), BAND_VOXELS_PER_CASE, generator)
        for name in measures:
            doubts[name].append((prediction.maps[name].values.numpy().ravel()[chosen], wrong[chosen]))
        if progress is not None:
            progress((len(held_out) + index + 1) / steps)

    before = _reliability(samples, [1.0] * len(samples))
    after = _reliability(samples, [temperatures[item.members] for item in held_out])
    temperature = temperatures[everyone]
    calibration = Calibration(
        temperature=temperature,
        ece_before=before.expected_calibration_error,
        ece_after=after.expected_calibration_error,
        bands={name: choose_bands(cases, name) for name, cases in doubts.items() if cases},
    )
    plot_reliability(folder / DIAGRAM, {"T = 1": before, f"T = {temperature:.2f}": after})
    write_description(folder, {**description, "calibration": calibration_to_json(calibration)})
    return calibration


def _held_out(per_member: Sequence[Sequence[str]], name: str, cases: Collection[str]) -> list[_HeldOut]:
    speakers: dict[str, list[int]] = {}
    for member, ids in enumerate(per_member):
        for case in ids:
            if case not in cases:
                raise BadInputError(f"held-out case {case} is not in {name}; is it the training data?")
            speakers.setdefault(case, []).append(member)
    return [_HeldOut(case, tuple(members)) for case, members in sorted(speakers.items())]


def _speaking(ensemble: Ensemble, item: _HeldOut, temperature: float = 1.0) -> Ensemble:
    members = [ensemble.members[index] for index in item.members]
    return replace(ensemble, members=members, calibration=Calibration(temperature=temperature))


def _holds_foreground(labels: np.ndarray) -> bool:
    return bool(((labels != 0) & (labels != IGNORE)).any())


def _region_logits(
    ensemble: Ensemble,
    item: _HeldOut,
    read: Read,
    device: torch.device | str,
    generator: np.random.Generator,
    *,
    everywhere: bool,
) -> tuple[torch.Tensor, np.ndarray]:
    """Logits `(member, class, voxel)` and true classes of voxels near the structures of one case, or everywhere."""
    volume, truth = read(item.case)
    labelled = truth != IGNORE
    structures = np.where(labelled, truth, 0)
    near = (
        np.ones(truth.shape, bool)
        if everywhere
        else foreground_region(structures, spacing_mm=volume.grid.spacing_mm)
    )
    region = near & labelled
    flat = _some(np.flatnonzero(region), REGION_VOXELS_PER_CASE, generator)
    region = np.zeros(truth.size, bool)
    region[flat] = True
    region = region.reshape(truth.shape)
    logits: list[torch.Tensor] = []
    truths: list[np.ndarray] = []

    def visit(block: torch.Tensor, take: Callable[[np.ndarray], np.ndarray]) -> None:
        inside = np.ascontiguousarray(take(region))
        logits.append(block[:, :, torch.from_numpy(inside).to(block.device)].cpu())
        truths.append(take(truth)[inside])

    predict(_speaking(ensemble, item), volume, measures=(), device=device, visit=visit)
    return torch.cat(logits, dim=2), np.concatenate(truths)


def _some(indices: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    return indices if indices.size <= most else np.sort(generator.choice(indices, most, replace=False))


def _temperatures(
    held_out: Sequence[_HeldOut],
    samples: Sequence[tuple[torch.Tensor, np.ndarray]],
    everyone: tuple[int, ...],
) -> dict[tuple[int, ...], float]:
    """The temperature of all members together, and of each part of them that speaks alone about some case.

    Args:
        samples: logits and truth of each case.
        everyone: all members.
    """
    parts = {item.members for item in held_out} - {everyone}
    together = [sample for item, sample in zip(held_out, samples, strict=True) if item.members == everyone]
    # How many times the temperature of all members a part of them needs.
    factors = dict.fromkeys((everyone, *parts), 1.0)
    if parts and together:
        common = _common_temperature(together)
        for part in parts:
            alone = [(logits[list(part)], truth) for logits, truth in together]
            factors[part] = _common_temperature(alone) / common
    common = _common_temperature(
        [
            (logits / factors[item.members], truth)
            for item, (logits, truth) in zip(held_out, samples, strict=True)
        ]
    )
    return {members: common * factor for members, factor in factors.items()}


def _common_temperature(samples: Sequence[tuple[torch.Tensor, np.ndarray]]) -> float:
    """One temperature for all cases, each with the members that speak about it.

    Members said twice change no mean: repeated, all cases have as many.
    """
    most = math.lcm(*(len(logits) for logits, _ in samples))
    logits = torch.cat([logits.repeat(most // len(logits), 1, 1) for logits, _ in samples], dim=2)
    return fit_temperature(logits, torch.from_numpy(np.concatenate([truth for _, truth in samples])))


def _reliability(
    samples: Sequence[tuple[torch.Tensor, np.ndarray]], temperatures: Sequence[float]
) -> Reliability:
    confidences, rights = [], []
    for (logits, truth), temperature in zip(samples, temperatures, strict=True):
        mean = torch.softmax(logits / temperature, dim=1).mean(dim=0)
        confidence, first = mean.max(dim=0)
        confidences.append(confidence.numpy())
        rights.append(first.numpy() == truth)
    return reliability(np.concatenate(confidences), np.concatenate(rights))
