"""One case's scores: what the champion doubts, what it predicts, and what the image looks like."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from overread.domain import NotFoundError, UncertaintyMap
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import Prediction, predict
from overread.imaging.slides.files import state_of
from overread.imaging.volumes import Volume
from overread.queue.features import image_features
from overread.state.scores import COLD, ScoreRow
from overread.uncertainty.aggregation import NEAR_VOXEL, near_foreground

# Scores are kept under the name of the champion's folder, which is the start of its identity.
CHAMPION_LENGTH = 12
# Features are kept with so many decimals; what differs less is the same.
DECIMALS = 5


def score_case(
    ensemble: Ensemble,
    volume: Volume,
    recipe: str,
    case_id: str,
    revision: str,
    now: float,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> ScoreRow:
    """What the ensemble says of one case; the row's champion is the start of its identity.

    - `doubt`: mean of the ensemble's `asked_by`, an entropy, in and near the predicted structures
      (`foreground_mean`), in nat;
    - `class_doubt`: the same of the entropy times the class's probability (ClaSP PE);
    - `quality`: 1 - mean pairwise Dice of the members; None for an ensemble of one, or whose members differ by style;
    - `foreground_mm3`: predicted volume (area in mm² for a picture);
    - `parts`: how much of the doubt is of which kind, where the ensemble can tell (`doubt_parts`).

    Args:
        revision: of the image's file, from `revision_of`.
        now: seconds since 1970.
        progress: told the share done, of the parts anew; may raise to cancel.

    Raises:
        BadInputError: the volume is none that the ensemble can read.
    """
    started = time.perf_counter()
    prediction = predict(ensemble, volume, measures=(ensemble.asked_by,), device=device, progress=progress)
    doubt, class_doubt = doubt_near_foreground(prediction, ensemble.asked_by)
    parts = {} if ensemble.doubt_parts is None else ensemble.doubt_parts(volume, progress)
    foreground = ensemble.classes[1:]
    disagreement = prediction.scores["pairwise_dice_disagreement"]
    disagree = len(ensemble.members) > 1 and not ensemble.differ_by_style
    voxels = np.bincount(prediction.labels.ravel(), minlength=len(ensemble.classes))[1:]
    return ScoreRow(
        recipe=recipe,
        champion=ensemble.identity[:CHAMPION_LENGTH],
        case_id=case_id,
        revision=revision,
        doubt=doubt,
        quality=disagreement if disagree else None,
        class_doubt=dict(zip(foreground, class_doubt, strict=True)),
        foreground_mm3={
            name: float(n) * volume.grid.voxel_volume_mm3 for name, n in zip(foreground, voxels, strict=True)
        },
        features=rounded_features(volume),
        took_s=time.perf_counter() - started,
        error=None,
        scored_at=now,
        parts=parts,
    )


def doubt_near_foreground(prediction: Prediction, measure: str) -> tuple[float, list[float]]:
    """Mean doubt in and near the predicted structures, in nat: of all classes, and of each foreground class."""
    uncertainty: UncertaintyMap = prediction.maps[measure]
    box, near = near_foreground(torch.from_numpy(prediction.labels), NEAR_VOXEL)
    values = uncertainty.values[box][near].double()
    by_class = [
        float((values * probability[box][near]).mean()) for probability in prediction.probabilities[1:]
    ]
    return float(values.mean()), by_class


def cold_score(volume: Volume, recipe: str, case_id: str, revision: str, now: float) -> ScoreRow:
    """What the image alone says: its features. For the time before there is a champion."""
    started = time.perf_counter()
    features = rounded_features(volume)
    return _without_opinion(
        recipe, COLD, case_id, revision, features, time.perf_counter() - started, None, now
    )


def failed_score(
    recipe: str, champion: str, case_id: str, revision: str, error: str, took_s: float, now: float
) -> ScoreRow:
    """A case that could not be scored, with the reason; it is tried again when its file changes."""
    return _without_opinion(recipe, champion, case_id, revision, (), took_s, error, now)


def rounded_features(volume: Volume) -> tuple[float, ...]:
    """`image_features`, short enough to be kept for thousands of cases."""
    return tuple(float(value) for value in image_features(volume).round(DECIMALS))


def revision_of(path: Path) -> str:
    """Size and time of change of an image's files: another image under the same name has another revision.

    Raises:
        NotFoundError: there is no such file.
    """
    try:
        size, changed_ns = state_of(Path(path))
    except OSError as error:
        raise NotFoundError(f"{path} cannot be found: {error.strerror}") from error
    return f"{size}-{changed_ns}"


def _without_opinion(
    recipe: str,
    champion: str,
    case_id: str,
    revision: str,
    features: tuple[float, ...],
    took_s: float,
    error: str | None,
    now: float,
) -> ScoreRow:
    return ScoreRow(
        recipe=recipe,
        champion=champion,
        case_id=case_id,
        revision=revision,
        doubt=None,
        quality=None,
        class_doubt={},
        foreground_mm3={},
        features=features,
        took_s=took_s,
        error=error,
        scored_at=now,
    )
