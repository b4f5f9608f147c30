"""Which rectangles of a slide a submission speaks of, and what it says about them.

QuPath submits all objects of a slide, whichever it was asked about. Annotated is what the reader was shown and has
touched; the rest of the slide is unknown, not background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from shapely.geometry import box

from overread.domain.labels import IGNORE
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.imaging.slides.outlines import rasterise
from overread.learning.patches import label_size
from overread.server.slides.reader_words import LabelledObject
from overread.state.servings import SUBMITTED, Serving

# A label's longer edge, in the model's pixels; what is larger becomes several.
MOST_PX = 2048
# Of a whole rectangle or of one object, as a label's details say.
RECTANGLE = "rectangle"
OBJECT = "object"


@dataclass(frozen=True)
class Annotated:
    """A part of a slide that becomes a label.

    Attributes:
        region: on the slide.
        of: `RECTANGLE`, all of which the reader judged, or `OBJECT`, around which nothing is known.
        serving: that it answers.
    """

    region: Region
    of: str
    serving: Serving | None = None


def served_regions(slide: str, bounds: Region, servings: Iterable[Serving]) -> list[Annotated]:
    """The rectangles of a slide that a client was shown, each with its newest serving.

    Args:
        servings: of this client, oldest first.
    """
    found: dict[Region, Annotated] = {}
    for serving in servings:
        place = PatchLocation.parse(serving.case_id)
        region = place.region.intersection(bounds) if place is not None and place.slide == slide else None
        if region is not None:
            found[region] = Annotated(region, RECTANGLE, serving)
    return list(found.values())


def still_spoken_of(served: Iterable[Annotated], now: float) -> list[Annotated]:
    """Those of the served rectangles that a submission of the whole slide may speak of.

    Those that are open, were skipped or whose lease ran out, as nothing was said about them. Those that were submitted
    count until their lease would have ended: then the reader who goes on with a slide corrects what came before.

    Args:
        now: when the submission came.
    """
    return [
        one
        for one in served
        if one.serving is not None and (one.serving.outcome != SUBMITTED or now <= one.serving.expires_at)
    ]


def annotated(
    objects: Sequence[LabelledObject], offered: Sequence[Annotated], settled: Sequence[Region], bounds: Region
) -> tuple[list[Annotated], int]:
    """What the objects speak of, and how many of them lie in rectangles that were judged before.

    Rectangles that an object shares a pixel's area with; and the box around each object that lies in none of them,
    nor in a settled one.
    """
    touched = [one for one in offered if any(touches(each, one.region) for each in objects)]
    regions = [one.region for one in touched]
    alone = [each for each in objects if not any(touches(each, region) for region in regions)]
    free = [each for each in alone if not any(touches(each, region) for region in settled)]
    boxes = [box_around(each, bounds) for each in free if each.value != IGNORE]
    return [*touched, *(Annotated(one, OBJECT) for one in dict.fromkeys(boxes))], len(alone) - len(free)


def touches(one: LabelledObject, region: Region) -> bool:
    """Whether they share an area, not only a border."""
    left, top, right, bottom = one.bounds
    if left >= region.right or right <= region.x or top >= region.bottom or bottom <= region.y:
        return False
    return shapely.intersection(one.polygon, box(region.x, region.y, region.right, region.bottom)).area > 0


def box_around(one: LabelledObject, bounds: Region) -> Region:
    """The whole pixels that an object lies in."""
    left, top, right, bottom = one.bounds
    x, y = max(math.floor(left), bounds.x), max(math.floor(top), bounds.y)
    right, bottom = min(math.ceil(right), bounds.right), min(math.ceil(bottom), bounds.bottom)
    return Region(x, y, max(1, right - x), max(1, bottom - y))


def parts(region: Region, slide: PixelSize, model: PixelSize) -> list[Region]:
    """The region itself, or a grid of equal parts where it has more than `MOST_PX` of the model's pixels a side."""
    columns, rows = (
        max(1, math.ceil(edge * (slide / model) / MOST_PX)) for edge in (region.width, region.height)
    )
    across = [region.x + round(region.width * i / columns) for i in range(columns + 1)]
    down = [region.y + round(region.height * i / rows) for i in range(rows + 1)]
    return [
        Region(left, top, right - left, bottom - top)
        for top, bottom in pairwise(down)
        for left, right in pairwise(across)
    ]


def painted(
    objects: Sequence[LabelledObject], place: PatchLocation, of: str, slide: PixelSize, um_per_px: float
) -> np.ndarray:
    """The label of a place.

    Larger objects are painted first, so that a smaller one within them is seen; of two alike the later one wins.

    Returns:
        `(x, y)` uint8 as labels are kept, at the model's pixel size: class indices, and around an `OBJECT` `IGNORE`.
    """
    here = [each for each in objects if touches(each, place.region)]
    in_order = sorted(here, key=lambda each: -each.polygon.area)
    ground = 0 if of == RECTANGLE else IGNORE
    picture = rasterise(
        [(each.polygon, each.value) for each in in_order],
        place.region,
        label_size(place, slide, um_per_px),
        ground,
    )
    return picture.T
