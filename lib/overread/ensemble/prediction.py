"""All members over one volume in a single pass of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from overread.domain import Grid, UncertaintyMap
from overread.ensemble.ensemble import Ensemble
from overread.imaging.volumes import Volume

# (slices of the input grid in model axis order …) see `predict`.
Visitor = Callable[[tuple[slice, ...], torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the ensemble says about one volume, on the volume's own grid.

    Attributes:
        probabilities: mean over members `(class, *space)`, float32.
        labels: class index of the largest mean probability, `(*space)` uint8.
        maps: uncertainty maps by measure name.
        scores: one number per whole-case score, such as `pairwise_dice_disagreement`.
        grid: the input's grid.
        timing_s: seconds by stage: `prepare`, `members`, `total`.
        members_spared: share of member evaluations that the cascade left out (0 without cascade).
    """

    probabilities: torch.Tensor
    labels: np.ndarray
    maps: dict[str, UncertaintyMap]
    scores: dict[str, float]
    grid: Grid
    timing_s: dict[str, float]
    members_spared: float


def predict(
    ensemble: Ensemble,
    volume: Volume,
    *,
    measures: Sequence[str] = ("predictive_entropy",),
    members: int | None = None,
    cascade: float | None = None,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    visit: Callable[[Any, torch.Tensor], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Prediction:
    """Let the members speak about a volume. To be written."""
    raise NotImplementedError
