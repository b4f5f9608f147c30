"""A rater made of a reference and a stated error: for simulations, where no person can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.raters.chance import generator_of

# How far apart two places of a boundary are before a hand errs there independently; about a centimetre when
# contours are drawn slice by slice.
WANDER_MM = 10.0
# A displacement of more standard deviations than this does not happen.
LONGEST_JITTER_SD = 4.0


@dataclass(frozen=True)
class RobotRater:
    """Labels a case as its reference says, but for two kinds of error.

    Attributes:
        jitter_mm: standard deviation of the boundary's displacement along each axis. The displacement is smooth: it
            wanders over about `WANDER_MM`, as a hand does, and does not fray voxel by voxel. 0: none.
        missed_mm3: connected objects of a class below this volume are not seen, and become background. 0: all are seen.
        seed: with the case's name decides the errors: the same rater labels the same case the same way.
    """

    jitter_mm: float = 0.0
    missed_mm3: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("jitter_mm", "missed_mm3"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise BadInputError(f"a robot rater's {name} is {value}, expected 0 or more")

    def label(self, truth: np.ndarray, spacing_mm: Sequence[float], case_id: str) -> np.ndarray:
        """What this rater says about a case.

        Args:
            truth: class indices `(*space)`; `IGNORE` stays `IGNORE`.
            spacing_mm: between voxels, along each axis of `truth`.
            case_id: name of the case.

        Returns:
            uint8 `(*space)`.

        Raises:
            BadInputError: there is not one spacing for each axis.
        """
        if len(spacing_mm) != truth.ndim:
            raise BadInputError(f"{len(spacing_mm)} spacings do not fit a label map of {truth.ndim} axes")
        said = np.array(truth, dtype=np.uint8)
        if self.missed_mm3 > 0:
            said = _without_small(said, self.missed_mm3 / float(np.prod(spacing_mm)))
        if self.jitter_mm > 0:
            said = _jittered(said, spacing_mm, self.jitter_mm, self._generator(case_id))
        return said

    def _generator(self, case_id: str) -> np.random.Generator:
        return generator_of(case_id, self.seed)


def _without_small(labels: np.ndarray, fewest_voxels: float) -> np.ndarray:
    """Objects of fewer voxels become background; an object is what touches, over corners too."""
    kept = labels.copy()
    for index in np.unique(labels[(labels != 0) & (labels != IGNORE)]):
        objects = np.empty(labels.shape, np.int32)
        ndimage.label(labels == index, structure=np.ones((3,) * labels.ndim), output=objects)
        small = np.bincount(objects.ravel()) < fewest_voxels
        small[0] = False
        kept[small[objects]] = 0
    return kept


def _jittered(
    labels: np.ndarray, spacing_mm: Sequence[float], sd_mm: float, generator: np.random.Generator
) -> np.ndarray:
    """Labels looked up at smoothly displaced places."""
    marked = (labels != 0) & (labels != IGNORE)
    if not marked.any():
        return labels
    reach = [int(np.ceil(LONGEST_JITTER_SD * sd_mm / s)) + 1 for s in spacing_mm]
    box = tuple(
        slice(max(int(places.min()) - margin, 0), min(int(places.max()) + margin + 1, size))
        for places, margin, size in zip(np.nonzero(marked), reach, labels.shape, strict=True)
    )
    inside = labels[box]
    places = []
    for axis, spacing in enumerate(spacing_mm):
        noise = ndimage.gaussian_filter(
            generator.standard_normal(inside.shape), [WANDER_MM / 2 / s for s in spacing_mm], mode="reflect"
        )
        # A small box holds nearly one value, so that its own spread says nothing: the filter's effect is computed.
        noise *= sd_mm / _sd_after_filter(inside.shape, spacing_mm)
        noise = noise.clip(-LONGEST_JITTER_SD * sd_mm, LONGEST_JITTER_SD * sd_mm)
        index = np.arange(inside.shape[axis]).reshape([-1 if a == axis else 1 for a in range(labels.ndim)])
        places.append(index + noise / spacing)
    moved = ndimage.map_coordinates(inside, places, order=0, mode="nearest")
    said = labels.copy()
    # What nobody labelled is neither moved nor spread.
    labelled = (inside != IGNORE) & (moved != IGNORE)
    said[box] = np.where(labelled, moved, inside)
    return said


def _sd_after_filter(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Root mean square of white noise of unit variance after the filter, computed axis by axis."""
    variance = 1.0
    for size, spacing in zip(shape, spacing_mm, strict=True):
        kernel = ndimage.gaussian_filter1d(np.eye(size), WANDER_MM / 2 / spacing, axis=0, mode="reflect")
        variance *= float((kernel**2).sum(axis=1).mean())
    return variance**0.5
