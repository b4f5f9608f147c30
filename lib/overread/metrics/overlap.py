"""How well a label map fits a rater's: overlap and distance between surfaces, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from overread.domain import BadInputError

# Usual tolerance for organs in CT and MR; about the difference between two careful raters.
TOLERANCE_MM = 2.0


def dice(predicted: np.ndarray, reference: np.ndarray, classes: int, *, both_empty: float) -> np.ndarray:
    """Dice of each foreground class, 2 TP / (2 TP + FP + FN).

    Args:
        predicted, reference: integer label maps of the same shape, in [0, classes).
        classes: number of classes, the background included.
        both_empty: the value where neither map holds the class: 1.0 rewards the right silence, NaN leaves it out
            of a later `nanmean`. There is no neutral choice, so say which.

    Returns:
        `(classes - 1)`, for the classes 1, 2, ...
    """
    _check_pair(predicted, reference, classes)
    joint = reference.astype(np.intp).ravel() * classes + predicted.ravel()
    counts = np.bincount(joint, minlength=classes**2).reshape(classes, classes)
    total = (counts.sum(axis=0) + counts.sum(axis=1))[1:]
    overlap = 2.0 * counts.diagonal()[1:]
    return np.divide(overlap, total, out=np.full(classes - 1, float(both_empty)), where=total > 0)


def surface_dice(
    predicted: np.ndarray,
    reference: np.ndarray,
    classes: int,
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float = TOLERANCE_MM,
) -> np.ndarray:
    """Share of both surfaces that lies within a tolerance of the other (normalised surface Dice), MONAI's.

    Nikolov et al. 2018 (arXiv:1809.04430), surface elements weighted by area. NaN where neither map holds the
    class, 0 where only one does.

    Returns:
        `(classes - 1)`, for the classes 1, 2, ...
    """
    # MONAI takes seconds to import, and whoever keeps labels needs Dice alone.
    from monai.metrics.surface_dice import compute_surface_dice

    _check_pair(predicted, reference, classes)
    scores = np.full(classes - 1, np.nan)
    for index in range(1, classes):
        first, second = predicted == index, reference == index
        if first.any() and second.any():
            scores[index - 1] = compute_surface_dice(
                _channels(first),
                _channels(second),
                class_thresholds=[tolerance_mm],
                spacing=[float(s) for s in spacing_mm],
                use_subvoxels=True,
            ).item()
        elif first.any() or second.any():
            scores[index - 1] = 0.0
    return scores


def hausdorff95_mm(
    predicted: np.ndarray, reference: np.ndarray, classes: int, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Distance within which 95 % of either surface lies from the other, the larger of both directions; MONAI's.

    NaN where a map does not hold the class: there is no distance to nothing. Report how many those are.

    Returns:
        `(classes - 1)` in mm, for the classes 1, 2, ...
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    _check_pair(predicted, reference, classes)
    distances = np.full(classes - 1, np.nan)
    for index in range(1, classes):
        first, second = predicted == index, reference == index
        if first.any() and second.any():
            distances[index - 1] = compute_hausdorff_distance(
                _channels(first),
                _channels(second),
                include_background=True,
                percentile=95,
                spacing=[float(s) for s in spacing_mm],
            ).item()
    return distances


def _channels(mask: np.ndarray) -> torch.Tensor:
    """`(*space)` as MONAI's `(batch, class, *space)` with one class."""
    return torch.from_numpy(mask[None, None])


def _check_pair(predicted: np.ndarray, reference: np.ndarray, classes: int) -> None:
    if predicted.shape != reference.shape:
        raise BadInputError(f"the prediction is {predicted.shape}, the reference {reference.shape}")
    for name, labels in (("prediction", predicted), ("reference", reference)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise BadInputError(f"the {name} must hold class numbers, got {labels.dtype}")
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise BadInputError(f"the {name} holds {labels.min()}..{labels.max()}, expected 0..{classes - 1}")
