"""A label that a clinician submits: checked and put into the model's own class indices before anything is kept.

3D Slicer sends a label map of its segments and `label_info`, their names in the order of the voxel values: value
k belongs to the k-th name. (`idx` in `label_info` counts other segments too and must not be used.)

The bands of doubt and the regions of candidates are segments as well, and are dropped by name. What stands in their
place depends on how the reader saw them. Inside the labels, a band took voxels away from the classes: a voxel that is
still `doubt` was left as it was proposed, so it returns to the class which the champion had proposed there. Laid over
the labels (or drawn by hand), a band that is still visible lies where no class does, and that is background: returning
it to the proposal would undo what the reader erased.

A segment called `not labelled` marks what the reader did not look at: those voxels become `IGNORE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.imaging.headers import read_header
from overread.imaging.lattice import in_order_of
from overread.imaging.segmentations import read_segments
from overread.imaging.volumes import read_labelmap
from overread.server.maps import Proposal
from overread.server.overlays import OVERLAY_NAMES

BACKGROUND = "background"
NOT_LABELLED = "not labelled"
# Segments of these names mark voxels that nobody labelled, unless a class of the model is called so.
IGNORED_NAMES = frozenset({NOT_LABELLED, "ignore"})
NOT_CLASSES = frozenset({*OVERLAY_NAMES, BACKGROUND, *IGNORED_NAMES})
LARGEST_CLASS_INDEX = IGNORE - 1


@dataclass(frozen=True, eq=False)
class AcceptedLabel:
    """A label in class indices on the image's grid.

    Attributes:
        labels: `(*space)` uint8; `IGNORE` where the reader did not label.
        names: class name to index, for the classes that the submission named.
        returned: how many voxels of doubt and of candidates returned to the proposal.
    """

    labels: np.ndarray
    names: dict[str, int]
    returned: int


def names_in_order(label_info: Any) -> list[str] | None:
    """Names of `label_info` in the order of the voxel values; None where none was sent.

    Raises:
        BadInputError: it is no list of `{"name": …}`.
    """
    if label_info is None:
        return None
    if not isinstance(label_info, list):
        raise BadInputError(f"label_info is {type(label_info).__name__}, expected a list of {{'name': ...}}")
    for entry in label_info:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadInputError(f"label_info holds {entry!r}, expected {{'name': ...}}")
    return [entry["name"] for entry in label_info]


def read_submission(path: Path, grid: Grid) -> np.ndarray:
    """Whole numbers `(*grid.shape)`, in the order of the image's voxels whatever order the viewer stored.

    Raises:
        BadInputError: the file cannot be read, holds anything but whole numbers, or lies on another grid.
    """
    return read_segmentation(path, grid)[0]


def read_segmentation(path: Path, grid: Grid) -> tuple[np.ndarray, list[str] | None]:
    """As `read_submission`, and the names of the values 1, 2, … where the file itself tells them.

    3D Slicer's segmentation files do, and their values need not follow the order of `label_info`.
    """
    shape = read_header(path).shape
    if sorted(_with_depth(shape)) != sorted(_with_depth(grid.shape)):
        raise BadInputError(
            f"the label lies on another grid than the image: shape {shape} instead of {grid.shape}"
        )
    segments = read_segments(path)
    if segments is None:
        names, (labels, label_grid) = None, read_labelmap(path)
    else:
        names, labels, label_grid = list(segments.names), segments.labels, segments.grid
    if len(grid.shape) == 3:
        try:
            labels = in_order_of(labels, label_grid, grid)
        except BadInputError as error:
            raise BadInputError(f"the label lies on another grid than the image: {error}") from error
    elif _with_depth(shape) != _with_depth(grid.shape):
        raise BadInputError(f"the label has shape {shape}, the picture {grid.shape}")
    # A picture carries no position that viewers agree on; its shape is what can be compared.
    labels = labels.reshape(grid.shape)
    if labels.min(initial=0) < 0:
        raise BadInputError(f"the label holds {labels.min()}; values begin at 0")
    return labels, names


def accept(
    labels: np.ndarray,
    names: Sequence[str] | None,
    classes: Sequence[str] | None,
    proposal: Callable[[], Proposal | None],
) -> AcceptedLabel:
    """Turn submitted values into class indices.

    Args:
        labels: values `(*space)` as submitted.
        names: name of value 1, 2, …; None where the client sent none, so that values are class indices, and
            `IGNORE` itself.
        classes: the model's classes, the background first; None where no model is known, so that classes are
            numbered in the order of `names`.
        proposal: gives what the champion proposed for the image; asked only where an overlay is left.

    Raises:
        BadInputError: a value without a name, or a name that is no class.
    """
    if names is None:
        highest = int(labels[labels != IGNORE].max(initial=0))
        limit = LARGEST_CLASS_INDEX if classes is None else len(classes) - 1
        if highest > limit:
            raise BadInputError(
                f"the label holds value {highest}, expected 0..{limit} (no label_info was sent)"
            )
        known = {} if classes is None else {name: i for i, name in enumerate(classes) if i > 0}
        return AcceptedLabel(labels.astype(np.uint8), known, 0)
    highest = int(labels.max(initial=0))
    if highest > len(names):
        raise BadInputError(
            f"the label holds value {highest}, but label_info has {len(names)} entries ({', '.join(names)})"
        )
    own = IGNORED_NAMES & set(classes or ())
    wanted = [name for name in names if name not in NOT_CLASSES or name in own]
    if classes is None:
        indices = {name: index for index, name in enumerate(dict.fromkeys(wanted), start=1)}
    else:
        indices = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in wanted if name not in indices]
    if unknown:
        raise BadInputError(
            f"label_info names {', '.join(map(repr, unknown))}; the model's classes are "
            f"{', '.join(map(repr, (classes or ())[1:]))}"
        )
    table = np.zeros(len(names) + 1, dtype=np.uint8)
    overlay = np.zeros(len(names) + 1, dtype=bool)
    for value, name in enumerate(names, start=1):
        table[value] = indices.get(name, IGNORE if name in IGNORED_NAMES else 0)
        overlay[value] = name in OVERLAY_NAMES
    mapped = table[labels]
    returned = 0
    if overlay[labels].any():
        proposed = proposal()
        if proposed is not None and proposed.labels.size == mapped.size:
            took = np.array([False, *(proposed.classes_hold(name) for name in names)])
            left = (overlay & took)[labels]
            mapped[left] = proposed.labels.reshape(mapped.shape)[left]
            returned = int(left.sum())
    return AcceptedLabel(mapped, {name: indices[name] for name in dict.fromkeys(wanted)}, returned)


def _with_depth(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (3 - len(shape))
