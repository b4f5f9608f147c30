"""What validation cases teach: one temperature for the members, and thresholds that make bands of doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from overread.domain import BadInputError
from overread.uncertainty.tensors import class_numbers, tensor_of

# Bounds of the temperature; a network that needs more is broken rather than over-confident.
TEMPERATURE_BOUNDS = (0.05, 20.0)
# A band is as small as it can be while it holds this share of the wrong voxels of the validation cases ...
HIGH_ERROR_SHARE = 0.80
MODERATE_ERROR_SHARE = 0.95
# ... and never larger than this share of all voxels: a reader can look at so much.
HIGH_VOXEL_SHARE = 0.04
MODERATE_VOXEL_SHARE = 0.10
# 0.07 * 100 voxels is 7 voxels, though the product comes out as 7.000000000000001.
ROUNDING = 1e-6

# What the bands are called in every viewer; the names never change, so that a new answer replaces the old one.
DOUBT_MODERATE = "doubt: moderate"
DOUBT_HIGH = "doubt: high"

# One validation case: the doubt at each voxel, and whether the prediction is wrong there; same shape.
BandCase = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DoubtBands:
    """Thresholds that turn an uncertainty map into bands, and what they were worth on validation cases.

    Attributes:
        measure: the uncertainty map that is cut.
        high: doubt at or above this is `doubt: high`, in the measure's unit.
        moderate: doubt at or above this (and below `high`) is `doubt: moderate`; more than 0, so that a voxel
            without doubt is in no band.
        high_error_share: share of wrong voxels found inside `high` on validation cases (0 if none was wrong).
        high_voxel_share: share of all voxels that `high` covers there.
        moderate_error_share: share of wrong voxels inside `high` or `moderate` (0 if none was wrong).
        moderate_voxel_share: share of all voxels in `high` or `moderate`.
        cases: number of validation cases this was measured on.
    """

    measure: str
    high: float
    moderate: float
    high_error_share: float
    high_voxel_share: float
    moderate_error_share: float
    moderate_voxel_share: float
    cases: int

    def __post_init__(self) -> None:
        if not 0 < self.moderate <= self.high < math.inf:
            raise BadInputError(
                f"bands of {self.measure} need 0 < moderate <= high, got {self.moderate} and {self.high}"
            )


@dataclass(frozen=True)
class Cascade:
    """When the first member is so sure of a slide's window that the others need not be asked.

    Attributes:
        threshold: windows where the first member's doubt is below this are spared, in nat.
        lost_share: share of the full ensemble's doubt that this lost on validation slides.
        spared_share: share of their windows that it spared.
        windows: how many windows this was measured on; slides: how many slides they lay on.
    """

    threshold: float
    lost_share: float
    spared_share: float
    windows: int
    slides: int

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < math.inf:
            raise BadInputError(f"a cascade's threshold is a finite number of nat, got {self.threshold}")


@dataclass(frozen=True)
class Calibration:
    """What validation cases say about the ensemble's probabilities.

    Attributes:
        temperature: every member's logits are divided by this before the softmax; 1 changes nothing.
        ece_before, ece_after: expected calibration error at temperature 1 and at `temperature`.
        bands: doubt bands, one per measure that can be shown.
        cascade: for slides; None where it was not measured.
    """

    temperature: float = 1.0
    ece_before: float | None = None
    ece_after: float | None = None
    bands: dict[str, DoubtBands] = field(default_factory=dict)
    cascade: Cascade | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise BadInputError(f"a temperature is a finite number above 0, got {self.temperature}")


def fit_temperature(logits: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray) -> float:
    """The temperature at which the ensemble's mean probabilities fit the labels best.

    Guo et al. 2017 (arXiv:1706.04599), for an ensemble: minimises the negative log-likelihood of the mean over
    members of softmax(logits / T), one T for all members. Works in float64 and gives the same answer every time;
    1.0 where no other temperature is better.

    Args:
        logits: `(member, class, voxel)`.
        labels: `(voxel)`, the true class of each.
    """
    raw = tensor_of(logits).double()
    truth = class_numbers(labels, "a temperature").to(raw.device, torch.int64)
    if raw.ndim != 3 or truth.shape != raw.shape[2:] or raw.numel() == 0:
        raise BadInputError(
            f"a temperature is fitted on logits (member, class, voxel) and labels (voxel), "
            f"got {tuple(raw.shape)} and {tuple(truth.shape)}"
        )
    if not bool(torch.isfinite(raw).all()):
        raise BadInputError("logits hold values that are not finite; did the training diverge?")
    members, classes, _ = raw.shape
    if int(truth.min()) < 0 or int(truth.max()) >= classes:
        raise BadInputError(
            f"labels hold {int(truth.min())}..{int(truth.max())}, expected 0..{classes - 1} as the logits have"
        )
    # Relative to the true class: -log softmax(x / T)[true] = logsumexp((x - x_true) / T).
    margins = raw - raw.gather(1, truth.expand(members, 1, -1))

    def negative_log_likelihood(log_temperature: float) -> float:
        log_p = -torch.logsumexp(margins / math.exp(log_temperature), dim=1)
        return float(math.log(members) - torch.logsumexp(log_p, dim=0).mean())

    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(
        negative_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-4}
    )
    return math.exp(found.x) if found.fun < negative_log_likelihood(0.0) else 1.0


def choose_bands(
    cases: Sequence[BandCase],
    measure: str,
    *,
    error_shares: tuple[float, float] = (HIGH_ERROR_SHARE, MODERATE_ERROR_SHARE),
    voxel_shares: tuple[float, float] = (HIGH_VOXEL_SHARE, MODERATE_VOXEL_SHARE),
) -> DoubtBands:
    """Thresholds such that `high` and `moderate` mean a stated share of the wrong voxels.

    Each band is the smallest that holds its share of the wrong voxels, pooled over the cases, or, where the budget
    of voxels does not allow that, as many of them as fit into the budget. A band that can find none of them (or
    where no voxel is wrong) takes its whole budget, so that the most doubtful places are still shown. Voxels of
    equal doubt are in a band together or not at all; if already the highest value fills more than the budget, the
    band starts just above it.

    Args:
        cases: doubt and wrongness of every voxel of each validation case, the measure's values as predicted.
        measure: its name.
        error_shares, voxel_shares: for `high` and `moderate`.
    """
    if not 0 < error_shares[0] <= error_shares[1] <= 1 or not 0 < voxel_shares[0] <= voxel_shares[1] <= 1:
        raise BadInputError(
            f"bands need shares in (0, 1] that do not fall from high to moderate, got {error_shares} "
            f"of wrong voxels within {voxel_shares} of all"
        )
    _check_cases(cases, measure)
    doubt = np.concatenate([d.ravel() for d, _ in cases])
    wrong = np.concatenate([w.ravel() for _, w in cases])
    voxels, errors = doubt.size, int(wrong.sum())
    wrong, doubt = wrong[doubt > 0], doubt[doubt > 0]
    order = np.argsort(doubt)[::-1]
    doubt = doubt[order]
    # One candidate threshold for each distinct value: how many voxels and wrong voxels are at or above it.
    last = np.flatnonzero(np.diff(doubt, append=-1.0))
    value, size, found = doubt[last], last + 1, np.cumsum(wrong[order])[last]

    def threshold(error_share: float, voxel_share: float) -> float:
        fitting = int(np.searchsorted(size, voxel_share * voxels + ROUNDING, side="right"))
        if fitting == 0:
            highest = value[:1].max(initial=0)
            return float(max(np.nextafter(highest, np.inf, dtype=doubt.dtype), np.finfo(doubt.dtype).tiny))
        goal = min(error_share * errors - ROUNDING, found[fitting - 1])
        index = int(np.searchsorted(found, goal)) if goal > 0 else fitting - 1
        return float(value[index])

    high, moderate = (threshold(e, v) for e, v in zip(error_shares, voxel_shares, strict=True))
    return measure_bands(DoubtBands(measure, high, moderate, 0, 0, 0, 0, 0), cases)


def measure_bands(bands: DoubtBands, cases: Sequence[BandCase]) -> DoubtBands:
    """The same thresholds with the shares they have on these cases, pooled; for cases held out from the choice."""
    _check_cases(cases, bands.measure)
    in_band = np.zeros(3, dtype=np.int64)
    wrong_in_band = np.zeros(3, dtype=np.int64)
    for doubt, wrong in cases:
        band = band_map(doubt, bands)
        in_band += np.bincount(band.ravel(), minlength=3)
        wrong_in_band += np.bincount(band[wrong], minlength=3)
    voxels, errors = int(in_band.sum()), max(int(wrong_in_band.sum()), 1)
    return replace(
        bands,
        high_error_share=float(wrong_in_band[2] / errors),
        high_voxel_share=float(in_band[2] / voxels),
        moderate_error_share=float(wrong_in_band[1:].sum() / errors),
        moderate_voxel_share=float(in_band[1:].sum() / voxels),
        cases=len(cases),
    )


def band_map(values: torch.Tensor | np.ndarray, bands: DoubtBands) -> np.ndarray:
    """Which band each voxel is in: 0 none, 1 moderate, 2 high; uint8, same shape."""
    doubt = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
    band = (doubt >= bands.moderate).astype(np.uint8)
    band += doubt >= bands.high
    return band


def _check_cases(cases: Sequence[BandCase], measure: str) -> None:
    if not any(doubt.size for doubt, _ in cases):
        raise BadInputError(f"bands of {measure} need at least one validation case with voxels, got none")
    for index, (doubt, wrong) in enumerate(cases):
        if doubt.shape != wrong.shape or wrong.dtype != np.bool_:
            raise BadInputError(
                f"validation case {index}: doubt {doubt.shape} needs truth values of the same shape, "
                f"got {wrong.dtype} {wrong.shape}"
            )
        if (
            not np.issubdtype(doubt.dtype, np.floating)
            or not np.isfinite(doubt).all()
            or doubt.min(initial=0) < 0
        ):
            raise BadInputError(f"validation case {index}: {measure} must be finite floats, at least 0")
