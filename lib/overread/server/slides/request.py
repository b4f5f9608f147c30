"""What a viewer asks about a slide, read from its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overread.domain import BadInputError, Region

# Level-0 pixels; QuPath asks for 30.
DEFAULT_MIN_AREA_PX = 30.0
# What a viewer may say of the place beside the options of the model.
PLACE = ("location", "size", "min_poly_area", "foreground", "background")


@dataclass(frozen=True)
class Click:
    """A point that a clinician set.

    Attributes:
        x, y: level-0 pixel, columns from the left and rows from the top of the slide.
        is_positive: it belongs to a structure; otherwise to none.
    """

    x: int
    y: int
    is_positive: bool


@dataclass(frozen=True)
class Place:
    """Where on a slide, and with which hints.

    Attributes:
        region: None for the whole slide.
        clicks: positive ones first; viewers do not tell the order.
        min_area_px: objects below it are left out, in level-0 pixels.
    """

    region: Region | None
    clicks: tuple[Click, ...]
    min_area_px: float

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> Place:
        """From the keys in `PLACE`; all of them may be missing. Location and size 0 mean the whole slide.

        Raises:
            BadInputError: a value that cannot be meant.
        """
        clicks = [Click(x, y, True) for x, y in _points(asked, "foreground")]
        clicks += [Click(x, y, False) for x, y in _points(asked, "background")]
        area = asked.get("min_poly_area")
        area = DEFAULT_MIN_AREA_PX if area is None else area
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area < math.inf:
            raise BadInputError(f"min_poly_area is {area!r}, expected a number of pixels from 0")
        return cls(_region(asked), tuple(clicks), float(area))

    def within(self, whole: Region) -> Region:
        """The part of a slide that is meant.

        Raises:
            BadInputError: it or a click lies outside.
        """
        region = whole if self.region is None else self.region.intersection(whole)
        if region is None:
            raise BadInputError(
                f"the rectangle {list((self.region or whole).bbox)} lies outside the slide, which has "
                f"{whole.width} x {whole.height} pixels"
            )
        for click in self.clicks:
            # Viewers round: a point on the border may fall on the next pixel.
            if not (region.x <= click.x <= region.right and region.y <= click.y <= region.bottom):
                raise BadInputError(
                    f"the click at [{click.x}, {click.y}] lies outside the rectangle {list(region.bbox)}"
                )
        return region


def whole_numbers(value: Any, what: str, count: int, least: int = 0) -> tuple[int, ...] | None:
    """So many numbers, rounded; None where nothing was sent.

    Raises:
        BadInputError: anything else, or a number below `least`.
    """
    if value is None:
        return None
    form = f"{what} is {value!r}, expected {count} numbers from {least}, in pixels of the slide's full resolution"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
        raise BadInputError(form)
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < 2**31:
            raise BadInputError(form)
    return tuple(round(number) for number in value)


def _region(asked: Mapping[str, Any]) -> Region | None:
    location = whole_numbers(asked.get("location"), "location", 2)
    size = whole_numbers(asked.get("size"), "size", 2)
    if size is None or not any(size):
        if location is not None and any(location):
            raise BadInputError(
                f"location is {list(location)} but there is no size; send both, or none of them"
            )
        return None
    if not all(size):
        raise BadInputError(f"size is {list(size)}: the rectangle is empty")
    return Region(*(location or (0, 0)), *size)


def _points(asked: Mapping[str, Any], key: str) -> list[tuple[int, int]]:
    points = asked.get(key) or []
    if not isinstance(points, list):
        raise BadInputError(f"{key} is {points!r}, expected a list of points like [[120, 80]]")
    found = [whole_numbers(point, f"a point of {key}", 2) for point in points]
    return [(point[0], point[1]) for point in found if point is not None]
