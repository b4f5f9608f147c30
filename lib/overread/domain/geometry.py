"""Where voxels lie in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain.errors import BadInputError


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels (or pixels) in space.

    Attributes:
        shape: voxels along i, j (and k).
        affine: 4x4, from voxel index to millimetres in RAS+ (the convention of nibabel). A 2D image uses the
            first two columns.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise BadInputError(f"a grid has 2 or 3 axes of at least one voxel, got shape {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise BadInputError(f"a grid's affine is 4x4 and finite, got {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise BadInputError("the affine maps the voxels onto a plane: its determinant is 0")

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel (area in mm² for a 2D image)."""
        return float(np.prod(self.spacing_mm))

    def difference_from(self, other: Grid, tolerance_mm: float = 1e-2) -> str | None:
        """What tells this grid from `other`, in words; None where all corners lie within `tolerance_mm`."""
        if self.shape != other.shape:
            return f"shape {self.shape} instead of {other.shape}"
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(len(self.shape), -1)
        homogeneous = np.zeros((4, corners.shape[1]))
        homogeneous[: len(self.shape)] = corners
        homogeneous[3] = 1
        worst_mm = np.linalg.norm(((self.affine - other.affine) @ homogeneous)[:3], axis=0).max()
        if worst_mm > tolerance_mm:
            return f"a position that differs by {worst_mm:.3g} mm at a corner"
        return None
