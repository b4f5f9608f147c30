"""Outlines as QuPath reads and writes them: ASAP XML and GeoJSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shapely.geometry import MultiPolygon, Polygon

from overread.domain.slides import Region
from overread.imaging.slides.outlines import Outline

DEFAULT_COLOURS: Mapping[str, str] = {
    "Tumor": "#c80000",
    "doubt: high": "#e6194b",
    "doubt: moderate": "#ffb000",
}


@dataclass(frozen=True, eq=False)
class SubmittedAnnotation:
    """One object that a client submitted; in the pixels that the client counts."""

    name: str
    colour: str
    polygon: Polygon | MultiPolygon


@dataclass(frozen=True, eq=False)
class Submitted:
    """What a client submitted."""

    roi: Region | None
    annotations: tuple[SubmittedAnnotation, ...]


def colour_of(name: str) -> str:
    """Colour `#rrggbb` of a class."""
    raise NotImplementedError


def to_asap(outlines: Sequence[Outline], colours: Mapping[str, str] | None = None) -> bytes:
    """The outlines as ASAP XML."""
    raise NotImplementedError


def to_geojson(outlines: Sequence[Outline], colours: Mapping[str, str] | None = None) -> dict:
    """The outlines as a GeoJSON FeatureCollection."""
    raise NotImplementedError


def read_asap(data: bytes) -> Submitted:
    """What QuPath submits."""
    raise NotImplementedError


def require_usable(submitted: Submitted, classes: Collection[str], bounds: Region) -> None:
    """Refuse unknown classes and polygons that do not lie on the slide."""
    raise NotImplementedError
