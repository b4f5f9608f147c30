"""Where a slide has tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.slide import Slide


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Which cells of a slide hold tissue."""

    mask: np.ndarray
    cell: PixelSize
    slide_pixel_size: PixelSize

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        raise NotImplementedError

    def share(self, region: Region) -> float:
        """How much of a region is tissue, in [0, 1]."""
        raise NotImplementedError

    def resized(self, cell: PixelSize) -> TissueMask:
        """The same with other cells."""
        raise NotImplementedError


def find_tissue(slide: Slide, cell: PixelSize = PixelSize(8.0)) -> TissueMask:
    """Find tissue at low power."""
    raise NotImplementedError
