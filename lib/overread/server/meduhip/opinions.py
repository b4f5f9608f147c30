"""The samples of a turn as the opinions of an ensemble: doubt, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from overread.domain import OpinionSums, UncertaintyMap
from overread.ensemble.prediction import Prediction
from overread.server.meduhip.encoded import Opened
from overread.server.meduhip.views import View
from overread.uncertainty.agreement import AgreementCounts
from overread.uncertainty.calibration import DoubtBands, band_map
from overread.uncertainty.measures import MEASURES


@torch.no_grad()
def prediction_of(opened: Opened, view: View, measures: Sequence[str], temperature: float) -> Prediction:
    """What the samples say together, on the grid of the file.

    As in the ensemble that such a model is elsewhere, a sample is one opinion about all classes, the background's
    logit being 0. The doubt is measured in the model's voxels and then brought to the image's.
    """
    started = time.perf_counter()
    image, shape = opened.image, opened.grid.shape
    logits = torch.stack([one.turn.logits[0] for one in view.answers], dim=1)
    members, structures = logits.shape[:2]
    counts = AgreementCounts(members, structures + 1)
    sums = OpinionSums()
    for member in logits:
        opinion = torch.cat([torch.zeros_like(member[:1]), member]).float().div(temperature).softmax(dim=0)
        sums.add(opinion)
    counts.add(_first_choices(logits))
    structure_means = image.to_input(sums.mean[1:]).cpu()
    background = (1 - structure_means.sum(dim=0, keepdim=True)).clamp(0, 1)
    maps = {}
    for name in measures:
        field = MEASURES[name](sums)
        values = image.to_input(field.values[None])[0].cpu().clamp(0, field.upper)
        maps[name] = UncertaintyMap(values.reshape(shape), field.unit, field.upper)
    return Prediction(
        probabilities=torch.cat([background, structure_means]).reshape(structures + 1, *shape),
        labels=view.labels.reshape(shape),
        maps=maps,
        scores={"pairwise_dice_disagreement": counts.pairwise_dice_disagreement()},
        grid=opened.grid,
        timing_s={"total": time.perf_counter() - started},
        members_spared=0.0,
    )


def bands_of(prediction: Prediction, thresholds: DoubtBands | None) -> np.ndarray | None:
    """The doubt cut at a measure's thresholds; None where it has none."""
    return None if thresholds is None else band_map(prediction.maps[thresholds.measure].values, thresholds)


def _first_choices(logits: torch.Tensor) -> torch.Tensor:
    """Class index of every sample `(member, structure, *space)`: `(member, *space)`."""
    most, index = logits.max(dim=1)
    return torch.where(most > 0, index + 1, 0).to(torch.uint8)
