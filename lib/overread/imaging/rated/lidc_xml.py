"""What the readers of LIDC-IDRI outlined, from their XML.

    LidcReadMessage  ResponseHeader/SeriesInstanceUid
                     readingSession, one a reader, anonymous
                       unblindedReadNodule  noduleID
                         roi  imageZposition, imageSOP_UID, inclusion, edgeMap (xCoord, yCoord) …

Armato et al. 2011 (Medical Physics 38:915): nodules of 3 mm and more are outlined, and the outline is the first pixels
*outside* the nodule; smaller ones and what is none have a single point, and are not read here. `inclusion` FALSE
outlines what is cut out of a nodule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse
from skimage.draw import line, polygon

from overread.domain import BadInputError

MESSAGE = "LidcReadMessage"
# Fewer points around a nodule enclose nothing.
FEWEST_POINTS = 3


@dataclass(frozen=True)
class Contour:
    """One closed outline in one slice.

    Attributes:
        sop_uid: of the slice.
        z_mm: of the slice, as DICOM has it.
        points: `(x, y)` of the first pixels outside.
        included: whether the inside belongs to the nodule, or is cut out of it.
    """

    sop_uid: str
    z_mm: float
    points: tuple[tuple[int, int], ...]
    included: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First and last x, first and last y of the outline."""
        x, y = np.array(self.points).T
        return int(x.min()), int(x.max()), int(y.min()), int(y.max())

    def inside(self) -> np.ndarray:
        """Pixels enclosed by the outline, without the outline itself: bool over its `box`, `(x, y)`."""
        first_x, last_x, first_y, last_y = self.box
        x, y = (np.array(self.points) - (first_x, first_y)).T
        shape = (last_x - first_x + 1, last_y - first_y + 1)
        mask = np.zeros(shape, bool)
        mask[polygon(x, y, shape)] = True
        # Readers' tools skip pixels now and then: the outline is what lies on the way from point to point.
        for start, end in zip(
            zip(x, y, strict=True), zip(np.roll(x, -1), np.roll(y, -1), strict=True), strict=True
        ):
            mask[line(*start, *end)] = False
        return mask


@dataclass(frozen=True)
class Mark:
    """One reader's outlines of one nodule; readers count from 0."""

    reader: int
    contours: tuple[Contour, ...]


@dataclass(frozen=True)
class Reading:
    """What all readers outlined in one scan.

    Attributes:
        series_uid: of the scan.
        readers: number of them, those who outlined nothing included.
        marks: nodules of all readers.
    """

    series_uid: str
    readers: int
    marks: tuple[Mark, ...]


@lru_cache(maxsize=8)
def read_lidc_xml(path: Path) -> Reading | None:
    """Read the outlines of a CT; None for XML of another kind (radiographs have `IdriReadMessage`).

    Raises:
        BadInputError: no XML, or an outline without what is needed to place it.
    """
    try:
        root = parse(path).getroot()
    except (OSError, ParseError, DefusedXmlException) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    if root is None or _tag(root) != MESSAGE:
        return None
    sessions = [element for element in root.iter() if _tag(element) == "readingSession"]
    series_uid = next((_text(e) for e in root.iter() if _tag(e) == "SeriesInstanceUid"), "")
    try:
        if not series_uid:
            raise ValueError("SeriesInstanceUid is missing")
        marks = tuple(mark for reader, session in enumerate(sessions) for mark in _marks(reader, session))
    except ValueError as error:
        raise BadInputError(f"{path} is no complete {MESSAGE}: {error}") from error
    return Reading(series_uid, len(sessions), marks)


def _marks(reader: int, session: Element) -> Iterator[Mark]:
    for nodule in session:
        if _tag(nodule) != "unblindedReadNodule":
            continue
        outlines = [_contour(roi) for roi in nodule if _tag(roi) == "roi"]
        if contours := tuple(each for each in outlines if len(each.points) >= FEWEST_POINTS):
            yield Mark(reader, contours)


def _contour(roi: Element) -> Contour:
    parts = {_tag(part): _text(part) for part in roi if _tag(part) != "edgeMap"}
    points = []
    for edge in (part for part in roi if _tag(part) == "edgeMap"):
        place = {_tag(part): _text(part) for part in edge}
        if not {"xCoord", "yCoord"} <= place.keys():
            raise ValueError("an edgeMap lacks xCoord or yCoord")
        points.append((int(place["xCoord"]), int(place["yCoord"])))
    if missing := [name for name in ("imageZposition", "imageSOP_UID") if not parts.get(name)]:
        raise ValueError(f"a roi lacks {' and '.join(missing)}")
    included = parts.get("inclusion", "TRUE").upper() != "FALSE"
    return Contour(parts["imageSOP_UID"], float(parts["imageZposition"]), tuple(points), included)


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Element) -> str:
    return (element.text or "").strip()
