"""One image and what each of its raters marked in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError, Grid
from overread.imaging.volumes import Volume


@dataclass(frozen=True, eq=False)
class RatedImage:
    """An image with one mask of each rater.

    Attributes:
        image: `(channel, *space)`, float32, finite; two or three axes of space, in the order of `read_volume`
            (pictures are x, y).
        masks: `(rater, *space)`, bool. An empty one is a rater who looked and marked nothing.
        raters: their names, in the order of `masks`.
        spacing_mm: between neighbours along each axis of space; None where nobody wrote it down.
        grid: where a volume lies; None of pictures, and where nobody wrote it down.
    """

    image: np.ndarray
    masks: np.ndarray
    raters: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None
    grid: Grid | None = None

    def __post_init__(self) -> None:
        space = self.image.shape[1:]
        if self.image.ndim not in (3, 4) or 0 in self.image.shape:
            raise BadInputError(f"a rated image is (channel, *space) in 2-D or 3-D, got {self.image.shape}")
        if self.image.dtype != np.float32 or not np.isfinite(self.image).all():
            raise BadInputError(f"a rated image is finite float32, got {self.image.dtype} or NaN in it")
        if not self.raters or len(set(self.raters)) != len(self.raters):
            raise BadInputError(f"a rated image needs raters of different names, got {self.raters}")
        if self.masks.dtype != np.bool_ or self.masks.shape != (len(self.raters), *space):
            raise BadInputError(
                f"masks of {len(self.raters)} raters over {space} are bool, got {self.masks.dtype} {self.masks.shape}"
            )
        if self.spacing_mm is not None:
            spacing_mm = tuple(float(s) for s in self.spacing_mm)
            if len(spacing_mm) != len(space) or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
                raise BadInputError(f"{len(space)} axes need as many spacings above 0, got {spacing_mm}")
            object.__setattr__(self, "spacing_mm", spacing_mm)
        if self.grid is not None and self.grid.shape != tuple(space):
            raise BadInputError(
                f"the grid {self.grid.shape} of a rated image does not fit its {space} voxels"
            )

    @property
    def share(self) -> np.ndarray:
        """Share of the raters that marked a voxel, float32 `(*space)`."""
        return self.masks.mean(axis=0, dtype=np.float32)

    @property
    def volume(self) -> Volume:
        """The image as `read_volume` gives it: a picture in pixels, a volume where it lies.

        A volume of which nobody wrote down where it lies is taken to run along R, A and S.
        """
        space = self.image.shape[1:]
        grid = self.grid
        if grid is None:
            spacing_mm = (
                self.spacing_mm if self.spacing_mm is not None and len(space) == 3 else (1.0, 1.0, 1.0)
            )
            grid = Grid(space, np.diag([*spacing_mm, 1.0]))
        return Volume(self.image, grid)
