"""Labels of a part: which voxels of an image a submission speaks of.

    "region": [[i0, i1], [j0, j1], [k0, k1]]      voxels i0 up to but not including i1, and so on
    "slices": {"axis": 2, "indices": [10, 14]}    whole slices across an axis of the image

in the params of `PUT /datastore/label`. Axes and numbers are those of the image as it is stored. Everything outside is
kept as not labelled: nothing is learnt from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from overread.domain import BadInputError


def labelled_part(params: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Where the submission holds, as booleans `(*shape)`; None where it speaks of the whole image.

    Raises:
        BadInputError: both or neither form is understood, or it lies outside the image.
    """
    region, slices = params.get("region"), params.get("slices")
    if region is not None and slices is not None:
        raise BadInputError("region and slices were both sent; a label is of one or the other")
    part = np.zeros(shape, bool)
    if region is not None:
        part[_region(region, shape)] = True
        return part
    if slices is not None:
        axis, indices = _slices(slices, shape)
        np.moveaxis(part, axis, 0)[indices] = True
        return part
    return None


def _region(region: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    form = f"region is {region!r}, expected {len(shape)} pairs of voxel indices like [[0, {shape[0]}], ...]"
    if not isinstance(region, list) or len(region) != len(shape):
        raise BadInputError(form)
    found = []
    for axis, (pair, size) in enumerate(zip(region, shape, strict=True)):
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_whole(n) for n in pair):
            raise BadInputError(form)
        if not 0 <= pair[0] < pair[1] <= size:
            raise BadInputError(
                f"region goes from {pair[0]} to {pair[1]} along axis {axis}, where the image has 0 to {size}"
            )
        found.append(slice(pair[0], pair[1]))
    return tuple(found)


def _slices(slices: Any, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    form = f'slices is {slices!r}, expected {{"axis": 2, "indices": [0, 1]}}'
    if not isinstance(slices, dict):
        raise BadInputError(form)
    axis, indices = slices.get("axis"), slices.get("indices")
    if (
        not _is_whole(axis)
        or not isinstance(indices, list)
        or not indices
        or not all(map(_is_whole, indices))
    ):
        raise BadInputError(form)
    if not 0 <= axis < len(shape):
        raise BadInputError(f"slices lie across axis {axis}, the image has axes 0 to {len(shape) - 1}")
    outside = [index for index in indices if not 0 <= index < shape[axis]]
    if outside:
        raise BadInputError(
            f"slice {outside[0]} is not in the image, which has 0 to {shape[axis] - 1} across axis {axis}"
        )
    return axis, indices


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
