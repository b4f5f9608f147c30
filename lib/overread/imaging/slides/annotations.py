"""Outlines as QuPath reads and writes them: ASAP XML and GeoJSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from shapely.geometry import Polygon, mapping
from shapely.geometry.polygon import orient

from overread.domain.errors import BadInputError
from overread.imaging.slides.class_names import DEFAULT_COLOURS, colour_of, name_in_qupath
from overread.imaging.slides.outlines import Outline, polygons_in
from overread.imaging.slides.rings import keyholed
from overread.imaging.slides.submissions import Submitted, SubmittedAnnotation, read_asap, usable

# Both directions of the format are found here.
__all__ = [
    "DEFAULT_COLOURS",
    "Submitted",
    "SubmittedAnnotation",
    "colour_of",
    "name_in_qupath",
    "read_asap",
    "to_asap",
    "to_geojson",
    "usable",
]

# Decimals of a level-0 pixel that are written.
DECIMALS = 2


def to_asap(outlines: Sequence[Outline], colours: Mapping[str, str] | None = None) -> bytes:
    """The outlines as ASAP XML, as QuPath's extension reads it.

    It takes one ring per annotation, so that holes hang on the outer ring by bridges of no width.

    Args:
        colours: `#rrggbb` of classes that shall not have their usual one.
    """
    named = _named(outlines, colours)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<ASAP_Annotations>", "<Annotations>"]
    for name, colour, polygon in named:
        group = f"PartOfGroup={quoteattr(name)} Color={quoteattr(colour)}"
        lines.append(f'<Annotation Name={quoteattr(name)} Type="Polygon" {group}><Coordinates>')
        lines += [
            f'<Coordinate Order="{order}" X="{_number(x)}" Y="{_number(y)}"/>'
            for order, (x, y) in enumerate(keyholed(polygon).tolist())
        ]
        lines.append("</Coordinates></Annotation>")
    lines += ["</Annotations>", "<AnnotationGroups>"]
    for name, colour in {name: colour for name, colour, _ in named}.items():
        group = f'<Group Name={quoteattr(name)} PartOfGroup="None" Color={quoteattr(colour)}>'
        lines.append(f"{group}<Attributes/></Group>")
    lines += ["</AnnotationGroups>", "</ASAP_Annotations>", ""]
    return "\n".join(lines).encode()


def to_geojson(outlines: Sequence[Outline], colours: Mapping[str, str] | None = None) -> dict:
    """The outlines as a FeatureCollection that QuPath 0.4 and later imports, one annotation a polygon.

    Args:
        colours: `#rrggbb` of classes that shall not have their usual one.
    """
    return {"type": "FeatureCollection", "features": [_feature(*each) for each in _named(outlines, colours)]}


def _named(outlines: Sequence[Outline], colours: Mapping[str, str] | None) -> list[tuple[str, str, Polygon]]:
    """Name in QuPath, colour and polygon of each."""
    colours = colours or {}
    for name, colour in colours.items():
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise BadInputError(f"colour {colour!r} of {name!r} is no #rrggbb")
    return [
        (name_in_qupath(each.name), colours.get(each.name, colour_of(each.name)), polygon)
        for each in outlines
        for polygon in polygons_in(each.polygon)
    ]


def _number(value: float) -> str:
    return f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")


def _feature(name: str, colour: str, polygon: Polygon) -> dict:
    rounded = shapely.transform(orient(polygon), lambda points: np.round(points, DECIMALS))
    rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return {
        "type": "Feature",
        "geometry": mapping(rounded),
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": rgb},
            "isLocked": False,
        },
    }
