"""Several raters' label maps of one case made one.

All label maps lie on one grid and hold class indices, the background being 0; `IGNORE` marks voxels that a rater
did not label. Such a voxel is no vote: it is decided by those who did label it, and stays `IGNORE` where nobody did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE

# STAPLE's estimates depend on how much background is around the structure, and can be turned upside down by it
# (Van Leemput & Sabuncu 2014; PMC3262958): only this far around what anybody marked is looked at.
MARGIN_VOXELS = 5
# The estimates settle in tens of rounds; two raters who contradict each other everywhere never settle.
MOST_ROUNDS = 200


def majority(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The class that most raters gave to a voxel.

    Where two classes have equally many votes nobody knows the answer, and the voxel is `IGNORE`: so two raters leave
    open what they disagree about.

    Args:
        labels: of each rater, `(*space)`.
        classes: number of classes, the background included.

    Returns:
        uint8 `(*space)`.

    Raises:
        BadInputError: no label map, shapes that differ, or a value that is neither a class nor `IGNORE`.
    """
    stack = _checked(labels, classes)
    best = np.zeros(stack[0].shape, np.uint8)
    fused = np.full(stack[0].shape, IGNORE, np.uint8)
    for index in range(classes):
        votes = np.sum([label == index for label in stack], axis=0, dtype=np.uint8)
        ahead = votes > best
        fused[(votes == best) & (votes > 0)] = IGNORE
        fused[ahead], best[ahead] = index, votes[ahead]
    return fused


def staple(labels: Sequence[np.ndarray], classes: int, margin: int = MARGIN_VOXELS) -> np.ndarray:
    """The most probable class of a voxel when raters differ in how reliable they are.

    Rohlfing, Russakoff & Maurer 2003 (the multi-class form of Warfield, Zou & Wells 2004), as SimpleITK's
    MultiLabelSTAPLE computes it: each rater's confusion matrix and the voxels' classes are estimated together. Here

    - only the box around what anybody marked as foreground, and `margin` voxels around it, takes part; outside it
      everyone says background, and so it is;
    - the matrices are estimated on voxels that every rater labelled, and decide the others by those who did;
      where no voxel was labelled by all, the majority decides;
    - a voxel whose two best classes are equally probable is `IGNORE`.

    Args:
        labels: of each rater, `(*space)`.
        classes: number of classes, the background included.
        margin: voxels around the box of all foreground, along each axis.

    Returns:
        uint8 `(*space)`. One rater's label map comes back as it is.

    Raises:
        BadInputError: as `majority`.
    """
    stack = _checked(labels, classes)
    if len(stack) == 1:
        return stack[0].copy()
    known = np.array([label != IGNORE for label in stack])
    fused = np.where(known.any(axis=0), 0, IGNORE).astype(np.uint8)
    marked = np.logical_or.reduce([(label != 0) & (label != IGNORE) for label in stack])
    if not marked.any():
        return fused
    box = _box_around(marked, margin)
    inside = np.array([label[box].ravel() for label in stack])
    seen = known[(slice(None), *box)].reshape(len(stack), -1)
    by_all = seen.all(axis=0)
    if not by_all.any():
        fused[box] = majority([label[box] for label in stack], classes)
        return fused
    prior, confusion = _reliability(inside[:, by_all], classes)
    decided = np.full(inside.shape[1], IGNORE, np.uint8)
    # Raters' answers repeat: each combination of them is decided once.
    answers, which = np.unique(inside, axis=1, return_inverse=True)
    verdicts = np.array([_verdict(answer, prior, confusion) for answer in answers.T], dtype=np.uint8)
    decided[:] = verdicts[which.ravel()]
    fused[box] = decided.reshape(fused[box].shape)
    return fused


def _checked(labels: Sequence[np.ndarray], classes: int) -> list[np.ndarray]:
    if not labels:
        raise BadInputError("there is no label map to fuse")
    if not 1 <= classes < IGNORE:
        raise BadInputError(f"{classes} classes cannot be fused, expected 1..{IGNORE - 1}")
    for number, label in enumerate(labels, start=1):
        if label.shape != labels[0].shape:
            raise BadInputError(
                f"label map {number} of {len(labels)} has shape {label.shape}, the first {labels[0].shape}"
            )
        odd = label[((label < 0) | (label >= classes)) & (label != IGNORE)]
        if odd.size:
            raise BadInputError(
                f"label map {number} of {len(labels)} holds {odd[0]}, expected 0..{classes - 1} or {IGNORE}"
            )
    return [np.asarray(label, np.uint8) for label in labels]


def _box_around(marked: np.ndarray, margin: int) -> tuple[slice, ...]:
    slices = []
    for axis, places in enumerate(np.nonzero(marked)):
        low, high = int(places.min()) - margin, int(places.max()) + margin + 1
        slices.append(slice(max(low, 0), min(high, marked.shape[axis])))
    return tuple(slices)


def _reliability(answers: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Prior `(class)` and confusion `(rater, answer, class)` from answers `(rater, voxel)`."""
    import SimpleITK as sitk

    estimate = sitk.MultiLabelSTAPLEImageFilter()
    estimate.SetMaximumNumberOfIterations(MOST_ROUNDS)
    # Its own default label for ties does not fit into 8 bits.
    estimate.SetLabelForUndecidedPixels(IGNORE - 1)
    estimate.SetNumberOfThreads(1)
    # There is no neighbourhood in the method: a row of voxels says as much as a box of them.
    estimate.Execute([sitk.GetImageFromArray(answer[None]) for answer in answers])
    labels = int(answers.max()) + 1
    # As ITK takes them where none are given: the classes' shares of all answers.
    prior = np.bincount(answers.ravel(), minlength=labels) / answers.size
    confusion = np.zeros((len(answers), classes, labels))
    for rater in range(len(answers)):
        matrix = np.array(estimate.GetConfusionMatrix(rater)).reshape(-1, labels)
        confusion[rater, :labels] = matrix[:labels]
    return prior, confusion


def _verdict(answer: np.ndarray, prior: np.ndarray, confusion: np.ndarray) -> int:
    """The most probable class for one combination of answers; `IGNORE` for a tie or where nobody answered."""
    voices = [(rater, given) for rater, given in enumerate(answer) if given != IGNORE]
    if not voices:
        return IGNORE
    weight = prior.copy()
    for rater, given in voices:
        weight *= confusion[rater, given]
    first, second = np.argsort(-weight, kind="stable")[:2] if len(weight) > 1 else (0, 0)
    if weight[first] == 0:
        # Nobody of the others ever said this: those who labelled the voxel are counted.
        given, votes = np.unique([given for _, given in voices], return_counts=True)
        best = given[votes == votes.max()]
        return int(best[0]) if len(best) == 1 else IGNORE
    if first != second and np.isclose(weight[first], weight[second], rtol=1e-9):
        return IGNORE
    return int(first)
