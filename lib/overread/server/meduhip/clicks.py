"""Clicks as viewers send them, as statements about voxels of the stored image.

3D Slicer and OHIF send all points of a case with each request, one list of voxels a label name (`deepedit`), or
`foreground` and `background` of the label that is selected (`deepgrow`). 3D Slicer holds right-handed volumes only: of
a left-handed file it counts the slices from the other end, as it does in the labels that it submits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from overread.domain import BadInputError, Grid
from overread.server.labels import BACKGROUND
from overread.server.overlays import CANDIDATE_NAMES

FOREGROUND = "foreground"
# How the client counts voxels.
VIEWER_ORDER, STORED_ORDER = "right-handed", "stored"

Kind = Literal["click", "pick", "none"]


@dataclass(frozen=True)
class Said:
    """One thing that a clinician said.

    Attributes:
        kind: a `click` on a voxel, the `pick` of a candidate by name, or that `none` of them is right.
        about: of a click the class, `background` or a candidate's name; of a pick the candidate's name.
        foreground: of a click on a class: whether the voxel belongs to it.
        place: the voxel that was clicked, as the image is stored; empty where none was.
        focus: the class whose candidates were on offer, by number.
        offered: whether their regions were on the screen, so that a click in one picks it.
        meant: of a click on a candidate's name, whether the candidate holds the voxel; None until it was looked up.
    """

    kind: Kind
    about: str = ""
    foreground: bool = True
    place: tuple[int, ...] = ()
    focus: int = 0
    offered: bool = False
    meant: bool | None = None

    def is_same_click(self, other: Said) -> bool:
        """Whether both are the click that a client sends again with each request."""
        return (self.kind, self.about, self.foreground, self.place) == (
            other.kind,
            other.about,
            other.foreground,
            other.place,
        )


@dataclass(frozen=True)
class Clicks:
    """The clicks of a request.

    Attributes:
        made: label by label, in the order sent.
        only_about: a class, where the client sends no other's clicks; those are then not taken back.
    """

    made: tuple[Said, ...] = ()
    only_about: str | None = None

    def speaks_of(self, said: Said) -> bool:
        """Whether a click that is missing here was taken back."""
        return said.kind == "click" and self.only_about in (None, said.about)


# Of a client that asks without its clicks. No class has an empty name.
ALL_STAND = Clicks(only_about="")


def read_clicks(request: Mapping[str, Any], classes: Sequence[str], grid: Grid, axes: int) -> Clicks:
    """The clicks of a request.

    Args:
        classes: names, the background first.
        grid: of the stored image.
        axes: of the model; of a volume of one slice, a model for pictures sees the slice.

    Raises:
        BadInputError: a click that is no voxel of the image, or on a label that is no class of the model.
    """
    order = request.get("voxel_order") or VIEWER_ORDER
    if order not in (VIEWER_ORDER, STORED_ORDER):
        raise BadInputError(f"voxel_order {order!r} is not known; there are {VIEWER_ORDER}, {STORED_ORDER}")
    reverse = order == VIEWER_ORDER and is_left_handed(grid)

    def of(key: str, about: str, foreground: bool) -> list[Said]:
        return [
            Said("click", about, foreground, _place(point, key, grid, reverse)[:axes])
            for point in _points(request, key)
        ]

    structures = tuple(classes[1:])
    if FOREGROUND in request and FOREGROUND not in structures:
        if not _points(request, FOREGROUND) and not _points(request, BACKGROUND):
            return Clicks()
        about = _selected(request, structures)
        made = [*of(FOREGROUND, about, True), *of(BACKGROUND, about, False)]
        return Clicks(tuple(made), about)
    known = (*structures, *CANDIDATE_NAMES, BACKGROUND)
    for key, value in request.items():
        if key not in known and _is_points(value):
            raise BadInputError(
                f"there are clicks on {key!r}; the model's classes are {', '.join(map(repr, structures))}, and "
                f"{', '.join(map(repr, CANDIDATE_NAMES))} and {BACKGROUND!r} can be clicked as well"
            )
    return Clicks(tuple(said for key in known for said in of(key, key, key != BACKGROUND)))


def is_left_handed(grid: Grid) -> bool:
    """Whether 3D Slicer counts the slices of such an image from the other end."""
    return len(grid.shape) == 3 and float(np.linalg.det(grid.affine[:3, :3])) < 0


def _selected(request: Mapping[str, Any], structures: tuple[str, ...]) -> str:
    label = request.get("label")
    if label in structures:
        return str(label)
    if len(structures) == 1:
        return structures[0]
    raise BadInputError(
        f"label {label!r} does not say what {FOREGROUND!r} is; the model's classes are {', '.join(structures)}"
    )


def _points(request: Mapping[str, Any], key: str) -> list[Any]:
    points = request.get(key)
    if points is None or points == "":
        return []
    if not isinstance(points, list):
        raise BadInputError(f"{key} is {points!r}, expected a list of voxels like [[10, 20, 5]]")
    return points


def _is_points(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(point, list) for point in value)


def _place(point: Any, key: str, grid: Grid, reverse: bool) -> tuple[int, ...]:
    is_volume = len(grid.shape) == 3
    # Viewers show a picture as a volume of one slice.
    lengths = (3,) if is_volume else (2, 3)
    if (
        not isinstance(point, list)
        or len(point) not in lengths
        or not all(isinstance(n, int | float) and not isinstance(n, bool) and n == int(n) for n in point)
    ):
        raise BadInputError(
            f"a click on {key!r} is {point!r}, expected {'three' if is_volume else 'two'} whole numbers"
        )
    place = [int(n) for n in point]
    shape = [*grid.shape, 1][: len(place)]
    if any(not 0 <= n < size for n, size in zip(place, shape, strict=True)):
        raise BadInputError(
            f"a click on {key!r} at {place} lies outside the image of {list(grid.shape)} voxels"
        )
    if reverse:
        place[2] = grid.shape[2] - 1 - place[2]
    return tuple(place)
