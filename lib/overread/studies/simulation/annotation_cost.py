"""What a label costs its reader, by a stated model: minutes from the length of the borders that must be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from overread.domain.labels import IGNORE

# Voxel faces overstate the area of a surface: by 3/2 on average over all its directions (4/pi for lines in 2D).
FACE_EXCESS = {2: 4 / np.pi, 3: 1.5}


@dataclass(frozen=True)
class CostModel:
    """Minutes for one case: `opening + drawing * drawn + erasing * erased`, or from scratch where that is less.

    An ASSUMPTION, not a measurement: the figures are of the order of what is told of contouring slice by slice. They
    weigh one strategy's cases against another's, and are no forecast of a reader's day.

    Attributes:
        opening_minutes: to load a case and to look through it.
        drawing_minutes_per_cm2: of the classes' borders that the proposal lacks (per cm in pictures).
        erasing_minutes_per_cm2: of borders that the proposal has and the truth has not.
        tolerance_mm: a border that lies so near, or one voxel near, is left as it is.
    """

    opening_minutes: float = 1.0
    drawing_minutes_per_cm2: float = 0.2
    erasing_minutes_per_cm2: float = 0.05
    tolerance_mm: float = 1.0


@dataclass(frozen=True)
class Cost:
    """Of one label.

    Attributes:
        labelled_mm3: volume that was looked at: all of a case, or the part that is not `IGNORE`.
        foreground_mm3: volume that is labelled as other than background (mm² in pictures).
        foreground_voxels: the same in voxels.
        minutes: by the cost model, correcting the proposal.
        scratch_minutes: by the cost model, without a proposal.
    """

    labelled_mm3: float
    foreground_mm3: float
    foreground_voxels: int
    minutes: float
    scratch_minutes: float


def cost_of(
    label: np.ndarray, proposal: np.ndarray, spacing_mm: tuple[float, ...], model: CostModel = CostModel()
) -> Cost:
    """What it takes to turn the proposal into the label, both `(*space)`; where the label is `IGNORE`, nothing."""
    drawn = border_cm2(label, proposal, spacing_mm, model.tolerance_mm)
    # What nobody looks at is not erased either.
    erased = border_cm2(np.where(label == IGNORE, IGNORE, proposal), label, spacing_mm, model.tolerance_mm)
    scratch = border_cm2(label, np.zeros_like(label), spacing_mm, model.tolerance_mm)
    from_scratch = model.opening_minutes + model.drawing_minutes_per_cm2 * scratch
    correcting = (
        model.opening_minutes + model.drawing_minutes_per_cm2 * drawn + model.erasing_minutes_per_cm2 * erased
    )
    voxel_mm3 = float(np.prod(spacing_mm))
    labelled = label != IGNORE
    voxels = int((labelled & (label > 0)).sum())
    return Cost(
        float(labelled.sum()) * voxel_mm3,
        voxels * voxel_mm3,
        voxels,
        min(correcting, from_scratch),
        from_scratch,
    )


def border_cm2(
    label: np.ndarray, other: np.ndarray, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> float:
    """Area of the borders of the label's classes from which the other's border of that class is farther away.

    Voxel faces are counted and divided by `FACE_EXCESS`, the mean of |nx| + |ny| + |nz| over the unit sphere; a face
    between two classes counts once. In pictures the borders are lines, in cm. Faces to `IGNORE` are no borders.

    Args:
        tolerance_mm: or the smallest edge of a voxel, where that is more.
    """
    area = 0.0
    tolerance = max(tolerance_mm, min(spacing_mm))
    for index in [value for value in np.unique(label) if value not in (0, IGNORE)]:
        near = _near_border(other, index, spacing_mm, tolerance)
        for axis in range(label.ndim):
            here, there = _neighbours(label, axis)
            border = ((here == index) != (there == index)) & (here != IGNORE) & (there != IGNORE)
            kept = np.logical_and(*_neighbours(near, axis))
            shared = np.where((here > 0) & (there > 0), 0.5, 1.0)
            face = float(np.prod(spacing_mm)) / spacing_mm[axis]
            area += face * float(shared[border & ~kept].sum())
    return area / (FACE_EXCESS[label.ndim] * 10 ** (label.ndim - 1))


def doubtful_box(doubt: np.ndarray, spacing_mm: tuple[float, ...], edge_mm: float) -> tuple[slice, ...]:
    """The box of that edge, as far as it fits, with the most doubt in it.

    Args:
        doubt: `(*space)`, such as an uncertainty map.
    """
    edges = [min(n, max(1, round(edge_mm / s))) for n, s in zip(doubt.shape, spacing_mm, strict=True)]
    sums = np.pad(doubt.astype(np.float64), [(1, 0)] * doubt.ndim)
    for axis, edge in enumerate(edges):
        # Sums over `edge` voxels along one axis after the other.
        running = sums.cumsum(axis)
        size = sums.shape[axis]
        sums = np.take(running, range(edge, size), axis) - np.take(running, range(size - edge), axis)
    corner = np.unravel_index(int(sums.argmax()), sums.shape)
    return tuple(slice(int(c), int(c) + edge) for c, edge in zip(corner, edges, strict=True))


def only_inside(label: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """The label in the box, and `IGNORE` around it."""
    partial = np.full_like(label, IGNORE)
    partial[box] = label[box]
    return partial


def _near_border(
    labels: np.ndarray, index: int, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> np.ndarray:
    """Voxels that touch a border of the class, or are as near to one as that."""
    touching = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        here, there = _neighbours(labels, axis)
        border = ((here == index) != (there == index)) & (here != IGNORE) & (there != IGNORE)
        none = [(0, 0)] * labels.ndim
        before, after = list(none), list(none)
        before[axis], after[axis] = (0, 1), (1, 0)
        touching |= np.pad(border, before) | np.pad(border, after)
    if not touching.any():
        return touching
    # A face that lies one voxel off touches voxels of which one lies one voxel off.
    distance_mm = np.asarray(distance_transform_edt(~touching, sampling=spacing_mm))
    return distance_mm <= tolerance_mm * (1 + 1e-6)


def _neighbours(labels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return np.take(labels, range(labels.shape[axis] - 1), axis), np.take(
        labels, range(1, labels.shape[axis]), axis
    )
