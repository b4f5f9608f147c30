"""What a viewer gets of a slide: outlines of classes and of doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from overread.domain import PixelSize, Region
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlidePrediction
from overread.imaging.slides.mosaic import LabelMosaic
from overread.imaging.slides.outlines import Outline, outlines_of
from overread.server.doubt import BANDS_OFF, BANDS_ONLY, DoubtMode
from overread.server.slides.clicks import pixel_of
from overread.server.slides.request import Click
from overread.uncertainty.calibration import DOUBT_HIGH, DOUBT_MODERATE, DoubtBands, band_map

# Of the model's pixels: a corner goes where it spans less than this squared.
SIMPLIFY_PX = 1.0
# Of kept maps: outlines deviate by half a cell, and single cells are noise.
SIMPLIFY_CELLS, LEAST_CELLS = 0.5, 2.0
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
    clicks: Sequence[Click] = (),
) -> list[Outline]:
    """Outlines of a prediction, in level-0 pixels: doubt first, so that viewers draw the classes over it.

    An object or hole that holds a click is there however small it is; and where a simplified border would leave a
    clicked point on the other side, none is simplified.

    Args:
        labels: class indices on the prediction's pixels, after clicks.
        classes: names, the background first.
        min_area_px: of an object, in level-0 pixels.
        clicks: which the labels honour.
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
        pixels = [pixel_of(click, prediction.region, scale, labels.size) for click in clicks]
        place |= {"min_area_px": min_area_px, "kept": pixels}
        drawn = outlines_of(labels, names, **place)
        said = [int(labels.read(column, row, 1, 1)[0, 0]) for row, column in pixels]
        if not all(
            _holds(drawn, click, prediction.region, names.get(index))
            for click, index in zip(clicks, said, strict=True)
        ):
            place["simplify_px"] = 0.0
            drawn = outlines_of(labels, names, **place)
        found += drawn
    return found


def kept_outlines(
    maps: SlideMaps,
    region: Region,
    thresholds: DoubtBands | None,
    mode: DoubtMode,
    min_area_px: float,
) -> list[Outline]:
    """Outlines of a region as kept maps show it: coarse, in cells of a few µm, but there at once.

    Args:
        thresholds: of the doubt bands, in a cell's mean; None for no bands.
    """
    rows, columns = maps.cells(region)
    probability = maps.probability[:, rows, columns]
    predicted = np.where(maps.known[rows, columns], probability.argmax(axis=0), 0).astype(np.uint8)
    bands = np.zeros_like(predicted)
    if thresholds is not None and thresholds.measure in maps.maps:
        bands = band_map(maps.maps[thresholds.measure][rows, columns].astype(np.float32), thresholds)
    place: dict[str, Any] = {
        "scale": maps.cell_px,
        "shift": (columns.start * maps.cell_px, rows.start * maps.cell_px),
        "simplify_px": SIMPLIFY_CELLS * maps.cell_px,
        "min_area_px": max(min_area_px, LEAST_CELLS * maps.cell_px**2),
    }
    found: list[Outline] = []
    if mode != BANDS_OFF:
        found += outlines_of(mosaic_of(bands.astype(np.uint8)), BAND_NAMES, **place)
    if mode != BANDS_ONLY:
        names = {index: name for index, name in enumerate(maps.classes) if index > 0}
        found += outlines_of(mosaic_of(predicted), names, **place)
    return found


def _holds(outlines: Sequence[Outline], click: Click, region: Region, name: str | None) -> bool:
    """Whether a clicked point lies in outlines of that class, and of no other; None for no class."""
    # Viewers round: a point on the border may fall on the next pixel.
    x, y = min(click.x, region.right - 1) + 0.5, min(click.y, region.bottom - 1) + 0.5
    return {each.name for each in outlines if shapely.contains_xy(each.polygon, x, y)} == {name} - {None}


def mosaic_of(picture: np.ndarray) -> LabelMosaic:
    """A picture `(row, column)` as a mosaic."""
    mosaic = LabelMosaic((picture.shape[1], picture.shape[0]))
    mosaic.write(0, 0, picture)
    return mosaic
