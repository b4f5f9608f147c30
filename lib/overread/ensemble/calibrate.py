"""Temperature and doubt bands of a trained ensemble, from cases that its members did not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from overread.domain import BadInputError, OpinionSums, first_choice
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
# Of many members or classes as many voxels as have so many logits.
BAND_LOGITS_PER_CASE = 3_000_000
# The reliability diagram, beside the members.
DIAGRAM = "reliability.png"


# From a case's id to its image, and class indices or `IGNORE` on the image's grid.
Read = Callable[[str], tuple[Volume, np.ndarray]]


@dataclass(frozen=True)
class _HeldOut:
    """A case and the members that may speak about it, having never seen it."""

    case: str
    members: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Said:
    """What was said at some voxels of a case.

    Attributes:
        logits: `(member, class, voxel)`, before any temperature.
        truth: class of each of those voxels.
        unseen: truth of those beyond the part of the image that the members look at; there all is background, surely.
    """

    logits: torch.Tensor
    truth: np.ndarray
    unseen: np.ndarray


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

    Each case is predicted once, by the members that did not learn from it: all of a deep ensemble (whose held-out cases
    are shared), one fold of a cross-validation, either after a retraining. The temperature minimises the negative log
    likelihood near the structures (elsewhere everything is easy and would hide miscalibration), or everywhere where no
    held-out case has a structure; bands then count all voxels, of large cases some by chance. Voxels that nobody
    labelled count in neither.

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

    near: list[_Said] = []
    anywhere: list[_Said] = []
    is_empty = not any(_holds_foreground(read(item.case)[1]) for item in held_out)
    for index, item in enumerate(held_out):
        there, all_over = _hear(ensemble, item, read, device, generator, is_empty=is_empty)
        near.append(there)
        anywhere.append(all_over)
        if progress is not None:
            progress((index + 1) / len(held_out))
    everyone = tuple(range(len(ensemble.members)))
    samples = [(said.logits, said.truth) for said in near]
    temperatures = _temperatures(held_out, samples, everyone)

    doubts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in MEASURES}
    for item in held_out:
        measures = [
            name for name in MEASURES if item.members == everyone or not MEASURES[name].is_of_disagreement
        ]
        # Forgotten case by case: the logits are more than the doubts.
        found, wrong = _doubts(anywhere.pop(0), temperatures[item.members], measures)
        for name in measures:
            doubts[name].append((found[name], wrong))

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


def _holds_foreground(labels: np.ndarray) -> bool:
    return bool(((labels != 0) & (labels != IGNORE)).any())


def _hear(
    ensemble: Ensemble,
    item: _HeldOut,
    read: Read,
    device: torch.device | str,
    generator: np.random.Generator,
    *,
    is_empty: bool,
) -> tuple[_Said, _Said]:
    """Ask about a case once: what is said near its structures (anywhere, if no case has one), and of all voxels."""
    volume, truth = read(item.case)
    labelled = truth != IGNORE
    region = labelled
    if not is_empty:
        structures = np.where(labelled, truth, 0)
        region = labelled & foreground_region(structures, spacing_mm=volume.grid.spacing_mm)
    most = BAND_LOGITS_PER_CASE // (len(item.members) * len(ensemble.classes))
    chosen = [
        _some(region, REGION_VOXELS_PER_CASE, generator),
        _some(labelled, min(BAND_VOXELS_PER_CASE, most), generator),
    ]
    logits: list[list[torch.Tensor]] = [[], []]
    truths: list[list[np.ndarray]] = [[], []]
    unseen = [some.copy() for some in chosen]

    def visit(block: torch.Tensor, take: Callable[[np.ndarray], np.ndarray]) -> None:
        there = take(truth)
        for index, some in enumerate(chosen):
            inside = np.ascontiguousarray(take(some))
            logits[index].append(block[:, :, torch.from_numpy(inside).to(block.device)].cpu())
            truths[index].append(there[inside])
            # `take` gives a view.
            take(unseen[index])[...] = False

    speaking = replace(ensemble, members=[ensemble.members[index] for index in item.members])
    predict(speaking, volume, measures=(), device=device, visit=visit)
    near, anywhere = (
        _Said(torch.cat(logits[index], dim=2), np.concatenate(truths[index]), truth[unseen[index]])
        for index in range(2)
    )
    return near, anywhere


def _doubts(
    said: _Said, temperature: float, measures: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The doubt at each voxel by each measure, as a prediction has it, and where the largest mean is wrong."""
    sums = OpinionSums()
    for logits in said.logits:
        sums.add(torch.softmax(logits / temperature, dim=0))
    wrong = np.concatenate([first_choice(sums.mean).numpy() != said.truth, said.unseen != 0])
    none = np.zeros(said.unseen.size, np.float32)
    return {name: np.concatenate([MEASURES[name](sums).values.numpy(), none]) for name in measures}, wrong


def _some(where: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """Those voxels of a mask, or so many of them by chance, as a mask."""
    indices = np.flatnonzero(where)
    if indices.size <= most:
        return where
    some = np.zeros(where.size, bool)
    some[generator.choice(indices, most, replace=False)] = True
    return some.reshape(where.shape)


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
