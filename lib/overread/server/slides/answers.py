"""What a viewer gets of a slide: outlines of classes and of doubt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import Polygon, shape

from overread.domain import BadInputError, PixelSize, Region
from overread.ensemble.slides.prediction import SlidePrediction
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import Outline, outlines_of
from overread.server.doubt import BANDS_OFF, BANDS_ONLY, DOUBT_NAMES, DoubtMode
from overread.uncertainty.calibration import DOUBT_HIGH, DOUBT_MODERATE

# Of the model's pixels: a corner goes where it spans less than this squared.
SIMPLIFY_PX = 1.0
# Doubt in less than a nucleus is no place to look at.
LEAST_DOUBT = PixelSize(8.0)
BAND_NAMES = {1: DOUBT_MODERATE, 2: DOUBT_HIGH}


def outlines_in(
    prediction: SlidePrediction,
    labels: LabelMosaic,
    classes: Sequence[str],
    slide_pixel_size: PixelSize,
    mode: DoubtMode,
    min_area_px: float,
) -> list[Outline]:
    """Outlines of a prediction, in level-0 pixels: doubt first, so that viewers draw the classes over it.

    Args:
        labels: class indices on the prediction's pixels, after clicks.
        classes: names, the background first.
        min_area_px: of an object, in level-0 pixels.
    """
    scale = prediction.pixel_size / slide_pixel_size
    place: dict[str, Any] = {
        "scale": scale,
        "shift": (float(prediction.region.x), float(prediction.region.y)),
        "simplify_px": SIMPLIFY_PX * scale,
    }
    found: list[Outline] = []
    if mode != BANDS_OFF:
        least = max(min_area_px, (LEAST_DOUBT / slide_pixel_size) ** 2)
        found += outlines_of(prediction.bands, BAND_NAMES, min_area_px=least, **place)
    if mode != BANDS_ONLY:
        names = {index: name for index, name in enumerate(classes) if index > 0}
        found += outlines_of(labels, names, min_area_px=min_area_px, **place)
    return found


def kept_outlines(path: Path, region: Region, mode: DoubtMode, min_area_px: float) -> list[Outline]:
    """The part of a slide's kept GeoJSON that lies in a region.

    Raises:
        BadInputError: the file is damaged.
    """
    window = shapely.box(region.x, region.y, region.right, region.bottom)
    found: list[Outline] = []
    try:
        features: list[Mapping[str, Any]] = json.loads(path.read_text())["features"]
        for feature in features:
            name = str(feature["properties"]["classification"]["name"])
            is_doubt = name in DOUBT_NAMES
            if mode == (BANDS_OFF if is_doubt else BANDS_ONLY):
                continue
            whole = shape(feature["geometry"])
            part = whole if window.contains(whole) else whole.intersection(window)
            found += [
                Outline(name, polygon)
                for polygon in shapely.get_parts(part)
                if isinstance(polygon, Polygon) and polygon.area >= min_area_px
            ]
    except (ValueError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise BadInputError(f"the kept outlines {path.name} are damaged: {error!r}") from error
    return found
