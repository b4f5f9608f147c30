"""Clicks on a slide: what the members said apart decides how far each of them reaches.

Where a structure is missing, a positive click takes what any member saw there; where one is wrong, a negative click
leaves of it what all members saw, or nothing. So a click moves the outline by as much as the members disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from overread.domain import BadInputError, Region
from overread.server.slides.request import Click, Place


def apply_clicks(
    labels: np.ndarray,
    some: np.ndarray,
    every: np.ndarray,
    clicks: Sequence[tuple[int, int, bool]],
    radius: float,
    most_likely: Callable[[int, int], int],
) -> np.ndarray:
    """The proposal as the clicks want it, class indices `(row, column)`.

    One after another, a positive click adds the connected structure of `some` that it lies in, and a negative one
    reduces the structure that it lies in to `every`, or removes it where that holds the click still. Then, where a
    later click undid an earlier one of the other side, or no member saw anything, a disc around the click gets its
    side, as far as no click of the other side is nearer. So every clicked pixel has the side it was given; of two
    sides for one pixel the later one.

    Args:
        labels: the proposal; untouched.
        some: a class that any member votes for, 0 where none does.
        every: the class that all members vote for, 0 where they differ.
        clicks: row, column and whether it is positive, oldest first.
        radius: of the disc, in pixels.
        most_likely: the class for a disc at that row and column.
    """
    drawn = labels.copy()
    for row, column, is_positive in clicks:
        if is_positive:
            added = _structure(some > 0, row, column) & (drawn == 0)
            drawn[added] = some[added]
        elif drawn[row, column]:
            structure = _structure(drawn > 0, row, column)
            if every[row, column]:
                drawn[structure] = 0
            else:
                drawn[structure & (every == 0)] = 0
    for index, (row, column, is_positive) in enumerate(clicks):
        if bool(drawn[row, column]) != is_positive:
            window, disc = _own_disc(drawn.shape, clicks, index, radius)
            drawn[window][disc] = most_likely(row, column) if is_positive else 0
    return drawn


def drawn_large_enough(
    labels: np.ndarray, clicks: Sequence[tuple[int, int, bool]], least: float, radius: float
) -> np.ndarray:
    """The answer to clicks with a disc around those that changed less than a viewer is shown.

    Args:
        labels: class indices `(row, column)`, with every click honoured; untouched.
        clicks: row, column and whether it is positive, oldest first.
        least: of objects and holes, in pixels; smaller ones are left out of the outlines.
        radius: of the disc, in pixels; what is nearer to a click of the other side is not in it, nor is what another
            structure has.
    """
    drawn = labels.copy()
    for index, (row, column, is_positive) in enumerate(clicks):
        said = labels[row, column]
        if bool(said) != is_positive or _structure(drawn == said, row, column).sum() >= least:
            continue
        window, disc = _own_disc(drawn.shape, clicks, index, radius)
        drawn[window][disc & (labels[window] == 0) if is_positive else disc] = said
    return drawn


def pixel_of(click: Click, region: Region, scale: float, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a click in a picture of a region.

    Args:
        scale: level-0 pixels along one of the picture.
        size: width and height of the picture.
    """
    row = math.floor((click.y + 0.5 - region.y) / scale)
    column = math.floor((click.x + 0.5 - region.x) / scale)
    return min(max(row, 0), size[1] - 1), min(max(column, 0), size[0] - 1)


def in_order(earlier: Iterable[Mapping[str, Any]], place: Place) -> tuple[Click, ...]:
    """The clicks of a request in the order in which they were made, as far as earlier requests tell.

    Viewers send all points of a rectangle each time, positive and negative apart. What was there before is older.

    Args:
        earlier: what the same client asked about the same slide, oldest first.
    """
    made: list[Click] = []
    for asked in earlier:
        try:
            before = Place.read(asked)
        except BadInputError:
            continue
        gone = [click for click in made if click not in before.clicks and _is_inside(click, before.region)]
        made = [click for click in made if click not in gone]
        made += [click for click in before.clicks if click not in made]
    return tuple(
        [click for click in made if click in place.clicks] + [c for c in place.clicks if c not in made]
    )


def _is_inside(click: Click, region: Region | None) -> bool:
    return region is None or (region.x <= click.x <= region.right and region.y <= click.y <= region.bottom)


def _structure(mask: np.ndarray, row: int, column: int) -> np.ndarray:
    """The connected part of the mask that holds the pixel; empty where the mask does not hold it."""
    if not mask[row, column]:
        return np.zeros_like(mask)
    numbered, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return numbered == numbered[row, column]


def _own_disc(
    shape: tuple[int, ...], clicks: Sequence[tuple[int, int, bool]], index: int, radius: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The disc around a click without what is nearer to a click of the other side: where it lies, and which pixels."""
    row, column, is_positive = clicks[index]
    reach = int(radius)
    window = tuple(
        slice(max(0, centre - reach), min(size, centre + reach + 1))
        for centre, size in zip((row, column), shape, strict=True)
    )
    rows, columns = np.ogrid[window]
    distance = (rows - row) ** 2 + (columns - column) ** 2
    disc = distance <= radius**2
    for other, (other_row, other_column, other_side) in enumerate(clicks):
        if other_side != is_positive:
            theirs = (rows - other_row) ** 2 + (columns - other_column) ** 2
            disc &= (distance <= theirs) if index > other else (distance < theirs)
    return (window[0], window[1]), disc
