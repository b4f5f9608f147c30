"""Slides whose lesions were outlined, and everything that is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import shapely
from shapely.geometry import MultiPolygon, box

from overread.domain import BadInputError, NotFoundError
from overread.domain.slides import Region
from overread.imaging.dataset import BrokenDatasetError, Problem
from overread.imaging.slides.annotations import SubmittedAnnotation, read_asap
from overread.imaging.slides.outlines import Outline, polygons_in
from overread.imaging.slides.slide import open_slide

# QuPath has a class of this name from the start.
LESION = "Tumor"
NEGATIVE = "negative"
# A tumour whose extent the data set does not tell.
TUMOUR = "tumour"
KINDS = (NEGATIVE, "itc", "micro", "macro", TUMOUR)


@dataclass(frozen=True)
class LabelledSlide:
    """One slide; nothing but names was read yet.

    Attributes:
        id: its file's name without the ending.
        path: the slide.
        patient: whose it is; slides of one patient are never divided.
        centre: where it was made; empty where nobody published that.
        kind: `negative`, `itc` (isolated tumour cells), `micro` or `macro` (metastasis), `tumour` (one whose extent is
            not told); empty where nobody published that.
        subset: the part of the data set it was published in, such as `training`.
        annotations: ASAP XML with its outlines; None where nobody drew any.
        groups: of that XML: True is lesion, False is cut out of lesions. Capitals do not count.
        is_exhaustive: all of its lesions are outlined, as far as the publishers say.
    """

    id: str
    path: Path
    patient: str
    centre: str
    kind: str
    subset: str
    annotations: Path | None
    groups: Mapping[str, bool]
    is_exhaustive: bool = True

    @property
    def is_labelled(self) -> bool:
        """Whether it is known where its lesions are: they were outlined, or it has none.

        A slide with a lesion that nobody outlined is not an empty one.
        """
        return self.kind == NEGATIVE or self.annotations is not None

    def outlines(self) -> list[Outline]:
        """Its lesions in level-0 pixels, with what was cut out of them as holes; none on a negative slide.

        Raises:
            BadInputError: nobody outlined them, or the XML cannot be used; `check_slides` tells all that is wrong.
        """
        if self.annotations is None:
            if self.kind != NEGATIVE:
                raise BadInputError(f"slide {self.id} has no outlines and is not known to be negative")
            return []
        annotations = self._annotations(self.annotations)
        if strange := self._strange_groups(annotations):
            raise BadInputError(f"{self.annotations} {strange}")
        groups = {name.casefold(): is_lesion for name, is_lesion in self.groups.items()}
        parts: dict[bool, list[shapely.Geometry]] = {True: [], False: []}
        for each in annotations:
            parts[groups[each.name.casefold()]].append(each.polygon)
        lesions = shapely.difference(shapely.union_all(parts[True]), shapely.union_all(parts[False]))
        return [Outline(LESION, polygon) for polygon in polygons_in(lesions)]

    def problems(self) -> list[Problem]:
        """What stands against its files. Opens the slide, decodes none of it, and reads the XML."""
        found: list[Problem] = []
        bounds: Region | None = None
        try:
            with open_slide(self.path) as slide:
                bounds = slide.bounds
                if slide.is_pixel_size_assumed:
                    what = "does not say how large its pixels are"
                    found.append(Problem(self.id, self.path.name, what))
        except (BadInputError, NotFoundError) as error:
            found.append(Problem(self.id, self.path.name, str(error)))
        if self.annotations is None:
            return found
        try:
            annotations = self._annotations(self.annotations)
        except BadInputError as error:
            return [*found, Problem(self.id, self.annotations.name, str(error))]
        said = [
            self._strange_groups(annotations),
            None if bounds is None else _outside(annotations, bounds),
            self._against_its_kind(annotations),
        ]
        return found + [Problem(self.id, self.annotations.name, what) for what in said if what]

    def _annotations(self, path: Path) -> tuple[SubmittedAnnotation, ...]:
        try:
            return read_asap(path.read_bytes()).annotations
        except OSError as error:
            raise BadInputError(f"{path} cannot be read: {error}") from error

    def _strange_groups(self, annotations: Iterable[SubmittedAnnotation]) -> str | None:
        known = {name.casefold() for name in self.groups}
        strange = sorted({each.name for each in annotations if each.name.casefold() not in known})
        if not strange:
            return None
        return f"has annotations of {', '.join(map(repr, strange))}; expected the groups {', '.join(self.groups)}"

    def _against_its_kind(self, annotations: tuple[SubmittedAnnotation, ...]) -> str | None:
        if self.kind == NEGATIVE and annotations:
            return "outlines something, but the slide is published as negative"
        if self.kind not in ("", NEGATIVE) and not annotations:
            return f"outlines nothing, but the slide is published with a lesion ({self.kind})"
        return None


@dataclass(frozen=True)
class LabelledSlides:
    """Slides whose lesions were outlined.

    Attributes:
        name: of the data set.
        slides: sorted by id, which are unique.
        strays: what was found wrong while listing; `check_slides` tells it with the rest.
    """

    name: str
    slides: tuple[LabelledSlide, ...]
    strays: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if not self.slides:
            raise NotFoundError(f"dataset {self.name} holds no slide")
        ids = Counter(slide.id for slide in self.slides)
        if twice := sorted(name for name, count in ids.items() if count > 1):
            raise BadInputError(f"dataset {self.name} has several slides of the name {', '.join(twice)}")
        object.__setattr__(self, "slides", tuple(sorted(self.slides, key=lambda slide: slide.id)))

    @property
    def centres(self) -> tuple[str, ...]:
        """Where the slides were made, sorted; a centre that is not known is none."""
        return tuple(sorted({slide.centre for slide in self.slides if slide.centre}))

    def labelled(self, *, exhaustively: bool = True) -> LabelledSlides:
        """Those whose lesions are known.

        Args:
            exhaustively: all of them. Without that, also slides where some lesion may have no outline, such as isolated
                tumour cells in Camelyon17: there, what a model finds beside the outlines need not be wrong.

        Raises:
            NotFoundError: there is none.
        """
        return self.of_slides(
            slide for slide in self.slides if slide.is_labelled and (slide.is_exhaustive or not exhaustively)
        )

    def of_centre(self, centre: str) -> LabelledSlides:
        """Those of one centre.

        Raises:
            NotFoundError: there is no such centre.
        """
        if centre not in self.centres:
            there = ", ".join(self.centres) or "none"
            raise NotFoundError(f"dataset {self.name} has no centre {centre!r}; there are {there}")
        return self.of_slides(slide for slide in self.slides if slide.centre == centre)

    def of_slides(self, slides: Iterable[LabelledSlide]) -> LabelledSlides:
        """The same data set with some of its slides."""
        return replace(self, slides=tuple(slides))


def check_slides(
    dataset: LabelledSlides, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Open every slide, read every XML and list all that is wrong; an empty list means sound.

    Args:
        dataset: from `read_camelyon`.
        progress: called with (slides opened, slides) after each slide.
    """
    problems = list(dataset.strays)
    for index, slide in enumerate(dataset.slides):
        problems += slide.problems()
        if progress is not None:
            progress(index + 1, len(dataset.slides))
    return problems


def ensure_slides_sound(dataset: LabelledSlides, progress: Callable[[int, int], None] | None = None) -> None:
    """Raise one BrokenDatasetError that holds all problems (see `check_slides`), if there are any."""
    if problems := check_slides(dataset, progress):
        raise BrokenDatasetError(dataset, problems)


def _outside(annotations: tuple[SubmittedAnnotation, ...], bounds: Region) -> str | None:
    slide = box(bounds.x, bounds.y, bounds.right, bounds.bottom)
    strangers = [each for each in annotations if _is_elsewhere(each.polygon, slide)]
    if not strangers:
        return None
    left, top, right, bottom = (round(side) for side in strangers[0].polygon.bounds)
    more = f", and {len(strangers) - 1} more," if len(strangers) > 1 else ""
    lie = "lie" if more else "lies"
    return (
        f"a polygon at x {left} to {right}, y {top} to {bottom}{more} {lie} outside the slide of {bounds.width} x "
        f"{bounds.height} pixels; does the XML belong to another slide?"
    )


def _is_elsewhere(polygon: shapely.Polygon | MultiPolygon, slide: shapely.Polygon) -> bool:
    return shapely.intersection(polygon, slide).area <= polygon.area / 2
