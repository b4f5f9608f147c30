"""The border of a map's positive part as polygons."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry import LineString, Polygon
from skimage.measure import find_contours

from overread.studies.slides.fields import CELL_UM, PAD

# Points that lie closer than this to the line between their neighbours are left out.
SIMPLIFIED_UM = 0.6


def trace(distance: np.ndarray, smallest_um2: float) -> list[Polygon]:
    """Polygons, with holes, in µm, around where a map is positive; the largest first."""
    rings = []
    for contour in find_contours(distance, 0.0):
        if len(contour) < 4 or not np.array_equal(contour[0], contour[-1]):
            continue
        rings.append(LineString((contour[:, ::-1] - PAD + 0.5) * CELL_UM))
    if not rings:
        return []
    # Rings within rings are holes, then islands, by turns.
    area = shapely.make_valid(shapely.build_area(shapely.MultiLineString(rings)).simplify(SIMPLIFIED_UM))
    polygons = [part for part in shapely.get_parts(area) if isinstance(part, Polygon)]
    return sorted((part for part in polygons if part.area >= smallest_um2), key=lambda part: -part.area)
