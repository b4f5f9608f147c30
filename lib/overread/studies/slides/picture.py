"""The five centres at a glance: one slide as each makes it, and a detail."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from overread.domain.slides import Region
from overread.imaging.slides.slide import Slide, open_slide
from overread.studies.slides.centres import CENTRES
from overread.studies.slides.writer import SlideTruth, make_slide

# Edge of a panel and the gap between panels, in pixels of the picture.
PANEL_PX, GAP_PX = 320, 6
OUTLINE = "#101010"


def draw_centres(picture: Path, size_px: int = 8000, seed: int = 0) -> None:
    """Make one slide at every centre and draw, above, the slides, the first outlined, and below the same place of each.

    The detail has the slide's own pixels (20x) and lies on the tumour's border.
    """
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        for number, centre in enumerate(CENTRES):
            path = Path(folder) / f"{centre}.tif"
            truth = make_slide(path, centre=centre, size_px=(size_px, size_px), seed=seed)
            with open_slide(path) as slide:
                panels.append((_overview(slide, truth, number == 0), _detail(slide, truth, number == 0)))
    width = len(panels) * (PANEL_PX + GAP_PX) - GAP_PX
    sheet = Image.new("RGB", (width, 2 * PANEL_PX + GAP_PX), "white")
    for column, pair in enumerate(panels):
        for row, panel in enumerate(pair):
            sheet.paste(panel, (column * (PANEL_PX + GAP_PX), row * (PANEL_PX + GAP_PX)))
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(240, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(
        picture, optimize=True
    )


def _overview(slide: Slide, truth: SlideTruth, is_outlined: bool) -> Image.Image:
    shown = Image.fromarray(slide.read_into(slide.bounds, (PANEL_PX, PANEL_PX)))
    if is_outlined:
        _outline(shown, truth, slide.bounds)
    return shown


def _detail(slide: Slide, truth: SlideTruth, is_outlined: bool) -> Image.Image:
    region = _border(truth, slide)
    shown = Image.fromarray(slide.read_into(region, (PANEL_PX, PANEL_PX)))
    if is_outlined:
        _outline(shown, truth, region)
    return shown


def _border(truth: SlideTruth, slide: Slide) -> Region:
    """A square with the border of the largest tumour in it, a third of the way along."""
    middle = truth.outlines[0].exterior.interpolate(1 / 3, normalized=True)
    half = PANEL_PX // 2
    x, y = (
        int(np.clip(place - half, 0, edge - PANEL_PX))
        for place, edge in zip((middle.x, middle.y), slide.size_px, strict=True)
    )
    return Region(x, y, PANEL_PX, PANEL_PX)


def _outline(shown: Image.Image, truth: SlideTruth, region: Region) -> None:
    pen = ImageDraw.Draw(shown)
    zoom = PANEL_PX / region.width
    for polygon in truth.outlines:
        for ring in (polygon.exterior, *polygon.interiors):
            pen.line(
                [((x - region.x) * zoom, (y - region.y) * zoom) for x, y in ring.coords],
                fill=OUTLINE,
                width=2,
            )
