"""Does 80 % sure mean right in 80 % of the voxels? Reliability diagram and expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from overread.domain import BadInputError

BINS = 15
# Far from any structure every network is right and sure; including that hides the error where it matters.
MARGIN_MM = 5.0
# Softmax in half precision can come out a little above 1.
CONFIDENCE_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of equal width.

    Attributes:
        confidence: mean confidence of each bin, NaN where it is empty.
        accuracy: share of right voxels of each bin, NaN where it is empty.
        voxels: number of voxels in each bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    voxels: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and accuracy, bins weighted by their voxels; 0 is calibrated."""
        filled = self.voxels > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gap * self.voxels[filled]).sum() / self.voxels.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Sort voxels into bins of confidence.

    Guo et al. 2017 (arXiv:1706.04599): bin m of M holds confidences in ((m - 1)/M, m/M]; 0 goes to the first.

    Args:
        confidence: the probability of the predicted class, in [0, 1], any shape. Take a region (see
            `foreground_region`): over a whole image the background drowns everything.
        correct: whether the predicted class is right, bool, same shape.
    """
    if confidence.shape != correct.shape or correct.dtype != np.bool_ or confidence.size == 0:
        raise BadInputError(
            f"calibration needs truth values for each confidence, got confidence {confidence.shape} "
            f"and {correct.dtype} {correct.shape}"
        )
    if bins < 1:
        raise BadInputError(f"calibration needs at least 1 bin, got {bins}")
    p = confidence.astype(np.float64).ravel()
    if not ((p >= -CONFIDENCE_TOLERANCE) & (p <= 1 + CONFIDENCE_TOLERANCE)).all():
        raise BadInputError(
            f"confidences lie in {p.min():.3g}..{p.max():.3g}, expected 0..1; are these logits?"
        )
    p = p.clip(0, 1)
    upper_edges = np.arange(1, bins + 1) / bins
    which = np.searchsorted(upper_edges, p, side="left").clip(max=bins - 1)
    voxels = np.bincount(which, minlength=bins)
    empty = np.full(bins, np.nan)
    filled = voxels > 0

    def average(values: np.ndarray) -> np.ndarray:
        return np.divide(np.bincount(which, values, minlength=bins), voxels, out=empty.copy(), where=filled)

    return Reliability(average(p), average(correct.ravel().astype(np.float64)), voxels)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over bins of equal width; see `reliability`."""
    return reliability(confidence, correct, bins).expected_calibration_error


def foreground_region(
    *labels: np.ndarray, spacing_mm: Sequence[float], margin_mm: float = MARGIN_MM
) -> np.ndarray:
    """Voxels in or within `margin_mm` of the foreground of any of the label maps.

    Give the prediction and the reference, so that a structure seen by one of them only counts as well. Empty where
    all maps are.
    """
    if not labels or any(each.shape != labels[0].shape for each in labels):
        raise BadInputError(
            f"a region needs label maps of one shape, got {', '.join(str(each.shape) for each in labels) or 'none'}"
        )
    if len(spacing_mm) != labels[0].ndim:
        raise BadInputError(f"{labels[0].ndim} axes need as many spacings, got {tuple(spacing_mm)}")
    foreground = np.logical_or.reduce([each != 0 for each in labels])
    region = np.zeros_like(foreground)
    if not foreground.any():
        return region
    # Distances are only needed as far as the margin: leave the rest of the scan out.
    box = []
    for hit, spacing, size in zip(np.nonzero(foreground), spacing_mm, foreground.shape, strict=True):
        margin = int(np.ceil(margin_mm / spacing))
        box.append(slice(max(hit.min() - margin, 0), min(hit.max() + margin + 1, size)))
    distance_mm = np.asarray(distance_transform_edt(~foreground[tuple(box)], sampling=tuple(spacing_mm)))
    region[tuple(box)] = distance_mm <= margin_mm
    return region


def plot_reliability(path: Path, diagrams: Mapping[str, Reliability]) -> None:
    """Draw one or more reliability diagrams into a picture file (PNG by suffix).

    Args:
        path: is overwritten.
        diagrams: by the name that the legend shows, such as `T = 1` and `T = 1.31`.
    """
    if not diagrams:
        raise BadInputError("there is no reliability diagram to draw")
    # Other libraries (nnunetv2 among them) change matplotlib's defaults for the whole process.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        # Not pyplot: it keeps figures alive and wants the main thread.
        figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
        for name, diagram in diagrams.items():
            filled = diagram.voxels > 0
            axes.plot(
                diagram.confidence[filled],
                diagram.accuracy[filled],
                marker="o",
                label=f"{name} (ECE {diagram.expected_calibration_error:.3f})",
            )
        axes.set(
            xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="share of right voxels"
        )
        axes.legend(loc="upper left")
        figure.savefig(path)
