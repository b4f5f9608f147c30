"""What the imports of other people's networks share: a folder that appears whole, axes named by anatomy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from overread.domain import BadInputError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends well, and vanishes when it does not.

    Raises:
        BadInputError: `target` exists and holds something.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target} exists already; an import goes to a new or empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    staging.chmod(0o755)
    try:
        yield staging
        os.replace(staging, target)  # noqa: PTH105
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def axes_towards(affine: np.ndarray, codes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which input axis runs closest to each of three anatomical directions, and whether it runs against it.

    Args:
        affine: 4x4, voxels to RAS+ millimetres.
        codes: where the axes shall run to, such as `RAS` or `LPS`.

    Returns:
        `(axes, flips)`: axis `a` of the reoriented volume is input axis `axes[a]`, reversed if `flips[a]`.
    """
    letters = codes.upper()
    pairs = ("LR", "PA", "IS")
    if len(letters) != 3 or any(sum(letter in pair for letter in letters) != 1 for pair in pairs):
        raise BadInputError(
            f"orientation {codes!r} is not three letters such as RAS: one each of L/R, P/A, I/S"
        )
    # Row i of the transform: input axis i goes to which axis, in which direction.
    transform = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(letters)))
    axes = tuple(int(axis) for axis in np.argsort(transform[:, 0]))
    return axes, tuple(bool(transform[axis, 1] < 0) for axis in axes)
