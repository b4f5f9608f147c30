"""Label pictures to polygons and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry import Polygon

from overread.domain.slides import Region
from overread.imaging.slides.mosaic import LabelMosaic


@dataclass(frozen=True, eq=False)
class Outline:
    """One object of a class.

    Attributes:
        name: of the class.
        polygon: in level-0 pixels, with its holes.
    """

    name: str
    polygon: Polygon


def outlines_of(
    mosaic: LabelMosaic,
    names: Mapping[int, str],
    *,
    simplify_px: float = 0.0,
    min_area_px: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> list[Outline]:
    """The objects of a label picture."""
    raise NotImplementedError


def rasterise(
    outlines: Sequence[tuple[Polygon, int]], region: Region, size: tuple[int, int], background: int = 0
) -> np.ndarray:
    """The polygons as a label picture of the region."""
    raise NotImplementedError
