"""What QuPath submits: ASAP XML as polygons of classes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import defusedxml
import numpy as np
import shapely
from defusedxml import ElementTree
from shapely.geometry import MultiPolygon, Point, Polygon, box

from overread.domain.errors import BadInputError
from overread.domain.slides import Region
from overread.imaging.slides.class_names import colour_of, name_in_qupath
from overread.imaging.slides.outlines import polygons_in
from overread.imaging.slides.rings import enclosed

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# Types of QuPath's shapes that are lines or points.
FLAT_TYPES = frozenset({"line", "polyline", "points", "dot", "pointset"})
# A polygon with less of its area than this on the slide was not drawn on it.
LEAST_SHARE_INSIDE = 0.5


@dataclass(frozen=True, eq=False)
class SubmittedAnnotation:
    """One object that a client submitted.

    Attributes:
        name: of its class.
        colour: `#rrggbb`.
        polygon: in the pixels that the client counts: from the corner of the patch for a patch, else of the slide.
    """

    name: str
    colour: str
    polygon: Polygon | MultiPolygon


@dataclass(frozen=True, eq=False)
class Submitted:
    """What a client submitted.

    Attributes:
        roi: the rectangle of a patch, in level-0 pixels; None for a whole slide.
        annotations: in the client's order.
        left_out: a sentence for each object that has no area.
    """

    roi: Region | None
    annotations: tuple[SubmittedAnnotation, ...]
    left_out: tuple[str, ...] = ()

    def moved(self, x: float, y: float) -> Submitted:
        """With every polygon moved by so many pixels, such as from a patch to its place on the slide."""
        moved = (
            replace(each, polygon=shapely.transform(each.polygon, lambda points: points + np.array((x, y))))
            for each in self.annotations
        )
        return replace(self, annotations=tuple(moved))


def read_asap(data: bytes) -> Submitted:
    """What QuPath's extension submits: its objects with their classes, repaired where they can be.

    Shapes of several rings, which come as one row of points, are told apart; ellipses, of which four points come,
    are round again; decimals may follow a point or a comma.

    Raises:
        BadInputError: no XML, XML with a document type, no `<Annotations>`; an annotation that has no class, fewer
            than 3 points, or a coordinate that is no number.
    """
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, defusedxml.DefusedXmlException):
            raise BadInputError(
                "the annotations bring a document type or entities of their own, which are not read; expected ASAP XML"
            ) from error
        raise BadInputError(
            f"the annotations are no XML: {error}; expected ASAP XML as QuPath sends it"
        ) from error
    listed = root if root.tag == "Annotations" else root.find("Annotations")
    if listed is None:
        raise BadInputError(
            f"the XML <{root.tag}> holds no <Annotations>; expected ASAP XML as QuPath sends it"
        )
    annotations, left_out = [], []
    for number, element in enumerate(listed.iter("Annotation"), start=1):
        annotation = _annotation(element, number)
        if annotation.polygon.is_empty:
            left_out.append(f"{_called(number, annotation.name)} has no area and was left out")
        else:
            annotations.append(annotation)
    return Submitted(_roi(listed), tuple(annotations), tuple(left_out))


def usable(
    submitted: Submitted, classes: Collection[str], bounds: Region, passed_over: Collection[str] = ()
) -> Submitted:
    """What was submitted, with classes called as in `classes` and polygons cut off at the bounds.

    Classes are compared as QuPath calls them, capitals or not. An object may hang over the border, as one does that
    was drawn across it.

    Args:
        bounds: of the slide, in the pixels of the polygons (see `Submitted.moved`).
        passed_over: classes whose objects do not count, such as the bands of doubt.

    Raises:
        BadInputError: a class that is in neither; an object that lies outside, by half of its area or more.
    """
    known = {name_in_qupath(name).casefold(): name for name in classes}
    ignored = {name_in_qupath(name).casefold() for name in passed_over}
    called = [name_in_qupath(each.name).casefold() for each in submitted.annotations]
    strange = dict.fromkeys(
        each.name
        for each, name in zip(submitted.annotations, called, strict=True)
        if name not in known and name not in ignored
    )
    if strange:
        raise BadInputError(
            f"unknown class {', '.join(map(repr, strange))}; expected {', '.join(sorted(map(repr, classes)))}: "
            "give these objects another class in QuPath, or none, and submit again"
        )
    chosen = zip(submitted.annotations, called, strict=True)
    kept = tuple(
        replace(each, name=known[name], polygon=_inside(each, bounds))
        for each, name in chosen
        if name in known
    )
    return replace(submitted, annotations=kept)


def _annotation(element: Element, number: int) -> SubmittedAnnotation:
    # ASAP itself writes the class here, and `Annotation 0` as the name; QuPath writes the class into both.
    group = element.get("PartOfGroup", "").strip()
    name = element.get("Name", "").strip() if group in ("", "None") else group
    if not name:
        raise BadInputError(f"annotation {number} has no class; give it one in QuPath and submit again")
    kind = element.get("Type", "").lower()
    points = np.array(
        [
            [_coordinate(point, axis, _called(number, name)) for axis in ("X", "Y")]
            for point in element.iter("Coordinate")
        ]
    ).reshape(-1, 2)
    colour = _colour(element.get("Color", "")) or colour_of(name)
    if kind in FLAT_TYPES:
        return SubmittedAnnotation(name, colour, Polygon())
    if len(points) < 3:
        raise BadInputError(
            f"{_called(number, name)} has {len(points)} points; expected 3 or more, as it shall enclose something"
        )
    return SubmittedAnnotation(
        name, colour, _ellipse(points) if _is_ellipse(kind, points) else enclosed(points)
    )


def _called(number: int, name: str) -> str:
    return f"annotation {number} ({name!r})"


def _coordinate(point: Element, axis: str, owner: str) -> float:
    return _parsed(point.get(axis), f"{axis} of a point of {owner}")


def _parsed(text: str | None, what: str) -> float:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInputError(f"the {what} is {text!r}; expected a number of pixels")
    return value


def _roi(listed: Element) -> Region | None:
    """The rectangle of a patch; QuPath writes zeros for a whole slide."""
    if listed.get("W") is None or listed.get("H") is None:
        return None
    x, y, width, height = (round(_parsed(listed.get(side, "0"), f"{side} of the patch")) for side in "XYWH")
    return Region(x, y, width, height) if width > 0 and height > 0 else None


def _colour(text: str) -> str | None:
    """`#rrggbb` of that, of `rrggbb`, `#aarrggbb`, or of the whole number that Java has for a colour."""
    hexadecimal = re.fullmatch("#?(?:[0-9a-fA-F]{2})?([0-9a-fA-F]{6})", text.strip())
    if hexadecimal:
        return "#" + hexadecimal[1].lower()
    if re.fullmatch(r"-?\d{1,10}", text.strip()):
        return f"#{int(text) & 0xFFFFFF:06x}"
    return None


def _is_ellipse(kind: str, points: np.ndarray) -> bool:
    return kind == "ellipse" and len(points) == 4


def _ellipse(points: np.ndarray) -> Polygon:
    """The ellipse that touches the four points' box."""
    low, high = points.min(axis=0), points.max(axis=0)
    circle = Point(0, 0).buffer(1, quad_segs=32)
    return shapely.transform(circle, lambda unit: (low + high) / 2 + unit * (high - low) / 2)


def _inside(annotation: SubmittedAnnotation, bounds: Region) -> Polygon | MultiPolygon:
    """Its polygon cut off at the bounds."""
    polygon = annotation.polygon
    cut = polygons_in(shapely.intersection(polygon, box(bounds.x, bounds.y, bounds.right, bounds.bottom)))
    if sum(part.area for part in cut) <= LEAST_SHARE_INSIDE * polygon.area:
        left, top, right, bottom = (round(side) for side in polygon.bounds)
        raise BadInputError(
            f"a polygon of {annotation.name!r} at x {left} to {right}, y {top} to {bottom} lies outside the slide, "
            f"which has x {bounds.x} to {bounds.right}, y {bounds.y} to {bounds.bottom}; "
            "was it drawn on another one?"
        )
    return cut[0] if len(cut) == 1 else MultiPolygon(cut)
