"""The samples of a turn as the opinions of an ensemble: doubt, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from overread.domain import OpinionSums, UncertaintyMap, first_choice
from overread.ensemble.prediction import Prediction
from overread.meduhip.doubt import PARTS, case_scores, splits_of
from overread.server.meduhip.clicks import Said
from overread.server.meduhip.encoded import Opened
from overread.server.meduhip.views import View
from overread.uncertainty.agreement import AgreementCounts
from overread.uncertainty.calibration import DoubtBands, band_map
from overread.uncertainty.measures import MEASURES

# Of the image's first axis, how much is measured at a time.
ROWS_AT_ONCE = 8


@torch.no_grad()
def prediction_of(opened: Opened, view: View, measures: Sequence[str], temperature: float) -> Prediction:
    """What the samples say together, on the grid of the file.

    As in the ensemble that such a model is elsewhere, a sample is one opinion about all classes, the background's
    logit being 0. The doubt is measured in the model's voxels and then brought to the image's.
    """
    started = time.perf_counter()
    image, shape = opened.image, opened.grid.shape
    structures = len(view.answers)
    means, fields, scores = _measured([one.turn.logits[0] for one in view.answers], measures, temperature)
    structure_means = image.to_input(means).cpu()
    background = (1 - structure_means.sum(dim=0, keepdim=True)).clamp(0, 1)
    maps = {}
    for name, field in fields.items():
        values = image.to_input(field.values[None])[0].cpu().clamp(0, field.upper)
        maps[name] = UncertaintyMap(values.reshape(shape), field.unit, field.upper)
    return Prediction(
        probabilities=torch.cat([background, structure_means]).reshape(structures + 1, *shape),
        labels=view.labels.reshape(shape),
        maps=maps,
        scores=scores,
        grid=opened.grid,
        timing_s={"total": time.perf_counter() - started},
        members_spared=0.0,
    )


@torch.no_grad()
def with_parts(prediction: Prediction, opened: Opened, temperature: float) -> Prediction:
    """The same with the doubt split into its parts (see `meduhip.doubt`): a map and a score each.

    They are of samples of their own, enough of each component to tell style from what a component leaves open, and
    know nothing of what anybody said or usually wants.
    """
    splits = splits_of(opened.image, temperature)
    maps = {}
    for name in PARTS:
        field = PARTS[name](*splits)
        values = opened.image.to_input(field.values[None])[0].cpu().clamp(0, field.upper)
        maps[name] = UncertaintyMap(values.reshape(opened.grid.shape), field.unit, field.upper)
    return replace(prediction, maps=prediction.maps | maps, scores=prediction.scores | case_scores(splits))


def _measured(
    logits: Sequence[torch.Tensor], measures: Sequence[str], temperature: float
) -> tuple[torch.Tensor, dict[str, UncertaintyMap], dict[str, float]]:
    """Mean probabilities `(structure, *space)`, maps by measure, and scores, of samples `(sample, *space)` a structure.

    In parts along the first axis, so that memory does not grow with samples times classes.
    """
    samples, length = logits[0].shape[:2]
    counts = AgreementCounts(samples, len(logits) + 1)
    means: list[torch.Tensor] = []
    fields: dict[str, list[UncertaintyMap]] = {name: [] for name in measures}
    for start in range(0, length, ROWS_AT_ONCE):
        part = torch.stack([one[:, start : start + ROWS_AT_ONCE] for one in logits], dim=1).float()
        part = torch.cat([torch.zeros_like(part[:, :1]), part], dim=1)
        counts.add(first_choice(part, dim=1))
        sums = OpinionSums.over(part.div_(temperature).softmax(dim=1))
        means.append(sums.mean[1:])
        for name in measures:
            fields[name].append(MEASURES[name](sums))
    whole = {
        name: UncertaintyMap(torch.cat([part.values for part in parts]), parts[0].unit, parts[0].upper)
        for name, parts in fields.items()
    }
    score = counts.pairwise_dice_disagreement()
    return torch.cat(means, dim=1), whole, {"pairwise_dice_disagreement": score}


def bands_of(
    prediction: Prediction, thresholds: DoubtBands | None, said: Sequence[Said] = ()
) -> np.ndarray | None:
    """The doubt cut at a measure's thresholds; None where it has none.

    A voxel that a clinician clicked is in no band: what it belongs to was said, and that is what is shown there.
    """
    if thresholds is None:
        return None
    bands = band_map(prediction.maps[thresholds.measure].values, thresholds).copy()
    for one in said:
        if one.kind == "click":
            bands[one.place] = 0
    return bands
