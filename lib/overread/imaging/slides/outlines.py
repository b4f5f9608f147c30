"""Label pictures to polygons and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from overread.domain.errors import BadInputError
from overread.domain.slides import Region
from overread.imaging.slides.coverage import simplified
from overread.imaging.slides.mosaic import LabelMosaic

# Squares that touch at a corner only are two objects.
CONNECTIVITY = 4


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
    kept: Sequence[tuple[int, int]] = (),
) -> list[Outline]:
    """The objects of a label picture, each one polygon however many blocks it lies in.

    Outlines run along the edges of pixels; pixels that touch at a corner only are two objects. The picture's pixel
    (column, row) covers level-0 pixels from `shift + scale * (column, row)` on.

    Simplified are the borders that objects share, both sides alike, so that classes that touched neither overlap
    nor part, and no object or hole is lost (see `coverage`).

    Args:
        names: what each label is called; labels that have no name are left out.
        simplify_px: a corner goes where it spans an area below the square of this, in level-0 pixels; 0 keeps all.
        min_area_px: objects below it are left out and holes below it are filled; level-0 pixels before simplification.
        scale: level-0 pixels along one pixel of the picture.
        shift: where the picture's upper left corner lies in level-0 pixels (x, y).
        kept: row and column of pixels of the picture; an object or hole that holds one stays, however small it is.

    Returns:
        By label, then from top to bottom.
    """
    if scale <= 0 or simplify_px < 0 or min_area_px < 0:
        raise BadInputError(
            f"outlines with scale {scale}, simplified by {simplify_px} px, from {min_area_px} px²: "
            "expected a scale above 0, the others 0 or more"
        )
    objects = _objects(mosaic, names, _Sieve(min_area_px / scale**2, tuple(kept)))
    if simplify_px and objects:
        simpler = simplified([polygon for _, polygon in objects], simplify_px / scale)
        objects = [(label, polygon) for (label, _), polygon in zip(objects, simpler, strict=True)]
    objects.sort(key=lambda each: (each[0], each[1].bounds[1], each[1].bounds[0]))
    return [Outline(names[label], _placed(polygon, scale, shift)) for label, polygon in objects]


def rasterise(
    outlines: Sequence[tuple[Polygon | MultiPolygon, int]],
    region: Region,
    size: tuple[int, int],
    background: int = 0,
) -> np.ndarray:
    """The polygons (in level-0 pixels) as a label picture of the region; later ones lie over earlier ones.

    A pixel belongs to a polygon that covers its centre. What lies outside the region is cut off.

    Args:
        size: width and height of the picture.

    Returns:
        (height, width) uint8.
    """
    # Not at the top: GDAL takes its time, and whoever holds label pictures does not need it.
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    width, height = size
    found = [(polygon, label) for polygon, label in outlines if not polygon.is_empty]
    if not found:
        return np.full((height, width), background, dtype=np.uint8)
    to_slide = Affine(region.width / width, 0, region.x, 0, region.height / height, region.y)
    return rasterize(found, out_shape=(height, width), fill=background, transform=to_slide, dtype="uint8")


@dataclass(frozen=True)
class _Sieve:
    """Which objects and holes stay.

    Attributes:
        least: area from which on they do, in the mosaic's pixels.
        kept: row and column of pixels for whose sake smaller ones do, too.
    """

    least: float
    kept: tuple[tuple[int, int], ...]

    def keeps(self, polygon: Polygon) -> bool:
        """Whether it stays."""
        return polygon.area >= self.least or any(
            shapely.contains_xy(polygon, column + 0.5, row + 0.5) for row, column in self.kept
        )

    def without_small_holes(self, polygon: Polygon) -> Polygon:
        """Without the holes that do not stay: what lay in them is smaller still, and is left out too."""
        holes = [ring for ring in polygon.interiors if self.keeps(Polygon(ring))]
        return polygon if len(holes) == len(polygon.interiors) else Polygon(polygon.exterior, holes)


def _objects(mosaic: LabelMosaic, names: Mapping[int, str], sieve: _Sieve) -> list[tuple[int, Polygon]]:
    """Label and polygon of every object that stays, in the mosaic's pixels."""
    whole: list[tuple[int, Polygon]] = []
    cut: dict[int, list[Polygon]] = defaultdict(list)
    for x, y, picture in mosaic.blocks():
        inner, outer = _reach(x, y, picture.shape, mosaic.size)
        for label, polygon in _pieces(picture, x, y, names):
            left, top, right, bottom = polygon.bounds
            if left <= inner[0] or top <= inner[1] or right >= outer[0] or bottom >= outer[1]:
                # Its holes are whole, as it lies around them in this block.
                cut[label].append(sieve.without_small_holes(polygon))
            elif sieve.keeps(polygon):
                whole.append((label, polygon))
    for label, polygons in cut.items():
        merged = polygons_in(shapely.union_all(polygons))
        whole.extend((label, polygon) for polygon in merged if sieve.keeps(polygon))
    return [
        (label, _without_needless_corners(sieve.without_small_holes(polygon))) for label, polygon in whole
    ]


def _reach(
    x: int, y: int, shape: tuple[int, ...], size: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and upper, right and lower border of a block; infinite where no other block follows."""
    right, bottom = x + shape[1], y + shape[0]
    return (
        (x if x else -np.inf, y if y else -np.inf),
        (right if right < size[0] else np.inf, bottom if bottom < size[1] else np.inf),
    )


def _pieces(picture: np.ndarray, x: int, y: int, names: Mapping[int, str]) -> Iterator[tuple[int, Polygon]]:
    """Label and polygon of what lies in one block whose upper left pixel is column x, row y."""
    from rasterio.features import shapes
    from rasterio.transform import Affine

    is_named = np.isin(picture, list(names))
    found = shapes(picture, mask=is_named, connectivity=CONNECTIVITY, transform=Affine.translation(x, y))
    for outline, label in found:
        shell, *holes = outline["coordinates"]
        polygon = Polygon(shell, holes)
        for part in polygons_in(polygon if polygon.is_valid else shapely.make_valid(polygon)):
            yield int(label), part


def polygons_in(geometry: shapely.Geometry) -> list[Polygon]:
    """The polygons that a geometry is made of; lines and points are left out."""
    if isinstance(geometry, Polygon):
        return [geometry]
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if isinstance(part, Polygon)]


def _without_needless_corners(polygon: Polygon) -> Polygon:
    """The same polygon of horizontal and vertical edges without vertices on straight edges, as seams leave them."""
    return Polygon(_corners(polygon.exterior), [_corners(ring) for ring in polygon.interiors])


def _corners(ring: shapely.LinearRing) -> np.ndarray:
    points = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _placed(polygon: Polygon, scale: float, shift: tuple[float, float]) -> Polygon:
    return shapely.transform(polygon, lambda points: points * scale + np.asarray(shift))
