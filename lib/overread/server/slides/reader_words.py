"""What the classes that a reader gave in QuPath mean for a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from shapely.geometry import MultiPolygon, Polygon

from overread.domain.labels import IGNORE
from overread.domain.slides import Region
from overread.imaging.slides.annotations import Submitted, name_in_qupath, usable
from overread.server.doubt import DOUBT_NAMES
from overread.server.labels import BACKGROUND, IGNORED_NAMES

# QuPath's own class for what shall not be looked at, and those for what holds other objects or is a click.
IGNORED = ("Ignore*", *sorted(IGNORED_NAMES))
NO_LABELS = ("Region*", "Positive", "Negative")
# QuPath 0.4 takes `doubt: high` of an older server for a class `high` below `doubt`, and submits it so.
DOUBT = (*DOUBT_NAMES, *(name.rpartition(": ")[2] for name in DOUBT_NAMES))


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """One object of the reader.

    Attributes:
        value: class index; `IGNORE` for what the reader did not want to judge.
        polygon: in level-0 pixels, on the slide.
    """

    value: int
    polygon: Polygon | MultiPolygon

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        return self.polygon.bounds


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader drew.

    Attributes:
        objects: in the order of the submission.
        left_out: a sentence for each kind of object that is no label.
    """

    objects: tuple[LabelledObject, ...]
    left_out: tuple[str, ...]


def understood(submitted: Submitted, classes: Sequence[str], bounds: Region) -> Reading:
    """The objects with the values of their classes.

    A class is told by its name, capitals or not. `background` is value 0, QuPath's `Ignore*` is `IGNORE`. Bands of
    doubt, regions and clicks are no labels; the model's own classes are, whatever they are called.

    Args:
        submitted: in level-0 pixels of the slide.
        classes: of the model, the background first.
        bounds: of the slide.

    Raises:
        BadInputError: an unknown class, or an object outside the slide.
    """
    values = dict.fromkeys(IGNORED, IGNORE) | {BACKGROUND: 0}
    own = {name_in_qupath(name).casefold() for name in classes}
    values = {name: value for name, value in values.items() if name.casefold() not in own}
    values |= {name: index for index, name in enumerate(classes)}
    passed_over = (*DOUBT, *NO_LABELS)
    kept = usable(submitted, tuple(values), bounds, passed_over)
    objects = tuple(LabelledObject(values[each.name], each.polygon) for each in kept.annotations)
    known = {name_in_qupath(name).casefold() for name in values}
    dropped = Counter(
        each.name for each in submitted.annotations if name_in_qupath(each.name).casefold() not in known
    )
    sentences = [f"{count} of class {name!r} are no labels" for name, count in dropped.items()]
    return Reading(objects, (*sentences, *submitted.left_out))


def class_names(submitted: Submitted) -> set[str]:
    """Names of what was submitted that have no meaning of their own, so that they are a model's classes."""
    words = {name_in_qupath(name).casefold() for name in (*IGNORED, *NO_LABELS, *DOUBT, BACKGROUND)}
    names = {each.name for each in submitted.annotations}
    return {name for name in names if name_in_qupath(name).casefold() not in words}
