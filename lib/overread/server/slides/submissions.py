"""What QuPath submits of a slide, as labels of patches.

Two forms come. *The slide's* XML holds all classified objects of the slide, in level-0 pixels. Nothing in it says what
the reader looked at, so that its labels are the rectangles which this client was served and which an object touches;
an object in none of them counts for itself, and around it nothing is known. Who finds nothing in a rectangle gives the
rectangle itself the class `background`. A *patch's* XML holds the objects of one selected rectangle, from whose corner
its coordinates count; all of the rectangle was judged. (A slide's XML that names a part of the slide as `X Y W H` is
judged in that part, and its coordinates are the slide's.)

QuPath sends everything again each time. What is as it was is not kept twice; objects in rectangles that were judged
longer ago say nothing new about them, as the others that were there may be gone from the screen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from overread.domain import BadInputError, Grid
from overread.domain.labels import IGNORE
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.imaging.slides.annotations import Submitted, read_asap, to_asap
from overread.imaging.slides.outlines import Outline, polygons_in
from overread.imaging.volumes import read_labelmap
from overread.learning.accepted import IN_USE, AcceptedLabels, Submission
from overread.learning.label_files import at_work, file_name, sync
from overread.server.provenance import label_facts
from overread.server.slides.reader_words import Reading, understood
from overread.server.slides.regions import (
    RECTANGLE,
    Annotated,
    annotated,
    painted,
    parts,
    served_regions,
    still_spoken_of,
    touches,
)
from overread.server.turns import interactions_of
from overread.state.labels import LabelRow, labels
from overread.state.servings import SUBMITTED, servings

# In a label's details: the submission's file below the folder of accepted labels, the id it was sent under, what it is
# of (see `Annotated`), and its pixel size.
XML_FILE = "xml"
SENT_AS = "sent_as"
OF = "annotated"
UM_PER_PX = "um_per_px"
# Each label is written down to the disk; so many take some seconds.
MOST_LABELS = 500
# Labels are in memory together, a byte a pixel.
MOST_LABEL_PX = 512 << 20
# Of a slide that was opened by hand, what was asked last is kept with each label.
MOST_TURNS = 10


@dataclass(frozen=True)
class SlideFacts:
    """Width and height in level-0 pixels, and what a pixel measures."""

    size_px: tuple[int, int]
    pixel_size: PixelSize
    is_pixel_size_assumed: bool

    @property
    def bounds(self) -> Region:
        """The whole slide."""
        return Region(0, 0, *self.size_px)


# Of a patch and a champion what that one had said there, class indices `(x, y)` of a size; None where it had not.
Proposed = Callable[[PatchLocation, str, tuple[int, int]], np.ndarray | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sent:
    """One submission.

    Attributes:
        slide: its id.
        place: the patch that it was sent for; None for the slide.
        xml, submitted: as it came, and as it reads.
        tag, rater, client, patient: see `Submission`.
        recipe, classes: the model whose classes the objects have, and these, the background first.
        um_per_px: the model's pixel size.
    """

    slide: str
    place: PatchLocation | None
    xml: bytes
    submitted: Submitted
    tag: str
    rater: str
    client: str
    patient: str
    recipe: str
    classes: Sequence[str]
    um_per_px: float

    @property
    def sent_as(self) -> str:
        """The id that it was sent under."""
        return self.slide if self.place is None else self.place.name


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a submission.

    Attributes:
        added: labels that are kept now.
        unchanged: labels that were kept before and said the same.
        settled: how many objects lie in rectangles that were judged before.
        file: of the XML, below the folder of accepted labels; empty where nothing was added.
    """

    added: tuple[LabelRow, ...]
    unchanged: tuple[LabelRow, ...]
    settled: int
    file: str

    def told(self) -> dict[str, Any]:
        """What clients are told, plain JSON."""
        rows = [*self.added, *self.unchanged]
        return {
            "file": self.file,
            "rater": rows[0].rater if rows else "",
            "labels": [{"patch": row.case_id, **label_facts(row)} for row in self.added],
            "unchanged": [row.case_id for row in self.unchanged],
            "objects_in_earlier_labels": self.settled,
        }


@dataclass(frozen=True, eq=False)
class SentReading(Reading):
    """What a reader drew, and in which rectangle; None where the rectangle is not told."""

    rectangle: Region | None


def read_sent(sent: Sent, facts: SlideFacts) -> SentReading:
    """What was submitted, in level-0 pixels of the slide.

    Raises:
        BadInputError: unknown classes, objects that do not lie on the slide, or a rectangle that does not or is
            another one than the id says.
    """
    submitted = sent.submitted
    rectangle = _rectangle(sent, facts.bounds)
    if sent.place is not None:
        submitted = submitted.moved(sent.place.region.x, sent.place.region.y)
    reading = understood(submitted, sent.classes, facts.bounds)
    if rectangle is not None and not any(touches(each, rectangle) for each in reading.objects):
        raise BadInputError(
            f"no object of a class lies in the rectangle {list(rectangle.bbox)} of slide {sent.slide!r}: to say that "
            "nothing is there, give the rectangle itself the class background; coordinates of a patch count from its "
            "corner"
        )
    return SentReading(reading.objects, reading.left_out, rectangle)


def accept_sent(
    accepted: AcceptedLabels,
    sent: Sent,
    reading: SentReading,
    facts: SlideFacts,
    now: float,
    proposed: Proposed = lambda *_: None,
) -> Outcome:
    """Keep the labels that a submission makes: all of them, or none where an error is raised.

    Args:
        proposed: tells what a label is compared with.

    Raises:
        BadInputError: nothing is labelled, or more at a time than can be taken.
    """
    with accepted.database.reading() as c:
        mine = [one for one in servings(c) if one.client_id == sent.client]
        before = [
            row
            for row in labels(c, prefix=sent.slide)
            if row.rater == sent.rater and row.tag == sent.tag and row.status in IN_USE
        ]
    served = served_regions(sent.slide, facts.bounds, mine)
    wanted, settled = _wanted(sent, reading, facts, served, before, now)
    places = [
        (PatchLocation(sent.slide, part), one)
        for one in wanted
        for part in parts(one.region, facts.pixel_size, PixelSize(sent.um_per_px))
    ]
    if len(places) > MOST_LABELS:
        raise BadInputError(
            f"the submission makes {len(places)} labels, at most {MOST_LABELS} are taken at a time: submit a rectangle "
            "after the other, each as a patch"
        )
    share = facts.pixel_size / PixelSize(sent.um_per_px)
    labelled_px = sum(place.region.area_px for place, _ in places) * share**2
    if labelled_px > MOST_LABEL_PX:
        raise BadInputError(
            f"the submission labels {labelled_px / 1e6:.4g} million pixels of {sent.um_per_px:g} µm, at most "
            f"{MOST_LABEL_PX / 1e6:.4g} million are taken at a time: submit smaller rectangles, each as a patch"
        )
    newest = {row.case_id: row for row in before}
    fresh: list[tuple[np.ndarray, PatchLocation, Annotated]] = []
    unchanged: list[LabelRow] = []
    for place, one in places:
        label = painted(reading.objects, place, one.of, facts.pixel_size, sent.um_per_px)
        row = newest.get(place.name)
        if (label == IGNORE).all():
            continue
        if row is not None and _is_answered(one) and _says(accepted, row, label):
            unchanged.append(row)
        else:
            fresh.append((label, place, one))
    if not fresh and not unchanged and not settled:
        raise BadInputError(
            f"nothing is labelled on slide {sent.slide!r}: no object of a class was submitted, or none covers "
            f"a pixel of {sent.um_per_px:g} µm"
        )
    if not fresh:
        return Outcome((), tuple(unchanged), settled, "")
    file = _keep_xml(accepted, sent)
    asked = interactions_of(accepted.database, sent.slide, sent.client)
    rows = accepted.add_all(
        [
            (
                label[..., None],
                Grid((*label.shape, 1), np.eye(4)),
                _with_proposal(_origin(sent, place, one, file, asked), place, label.shape, proposed),
            )
            for label, place, one in fresh
        ],
        now,
    )
    return Outcome(tuple(rows), tuple(unchanged), settled, file)


def shown_xml(xml: bytes, place: PatchLocation | None) -> bytes:
    """The submission in level-0 pixels of the slide, for viewers. Raises BadInputError for broken XML."""
    if place is None:
        return xml
    moved = read_asap(xml).moved(place.region.x, place.region.y)
    return to_asap(
        [Outline(each.name, polygon) for each in moved.annotations for polygon in polygons_in(each.polygon)],
        {each.name: each.colour for each in moved.annotations},
    )


def _rectangle(sent: Sent, bounds: Region) -> Region | None:
    """All of which was judged, on the slide; None where the submission does not tell."""
    roi = sent.submitted.roi
    if sent.place is not None:
        region = sent.place.region
        same_place = (region, Region(0, 0, region.width, region.height))
        if roi is not None and roi not in same_place:
            raise BadInputError(
                f"the XML is of the rectangle {list(roi.bbox)}, but was sent for patch {sent.place.name}; "
                "leave the name as QuPath proposes it"
            )
        rectangle = region.intersection(bounds)
    elif roi is None or roi.contains(bounds):
        return None
    else:
        region, rectangle = roi, roi.intersection(bounds)
    if rectangle is None:
        raise BadInputError(
            f"the rectangle {list(region.bbox)} lies outside slide {sent.slide!r}, which has "
            f"{bounds.width} x {bounds.height} pixels"
        )
    return rectangle


def _wanted(
    sent: Sent,
    reading: SentReading,
    facts: SlideFacts,
    served: Sequence[Annotated],
    before: Sequence[LabelRow],
    now: float,
) -> tuple[list[Annotated], int]:
    """What becomes labels, and how many objects lie in rectangles that were judged before."""
    if reading.rectangle is not None:
        answered = [one for one in served if one.region == reading.rectangle]
        return [answered[0] if answered else Annotated(reading.rectangle, RECTANGLE)], 0
    offered = still_spoken_of(served, now)
    open_regions = {one.region for one in offered}
    judged = [PatchLocation.parse(row.case_id) for row in before if row.details.get(OF) == RECTANGLE]
    settled = [
        place.region
        for place in judged
        if place is not None and place.slide == sent.slide and place.region not in open_regions
    ]
    return annotated(reading.objects, offered, settled, facts.bounds)


def _is_answered(one: Annotated) -> bool:
    """Whether no serving waits for this label."""
    return one.serving is None or one.serving.outcome == SUBMITTED


def _says(accepted: AcceptedLabels, row: LabelRow, label: np.ndarray) -> bool:
    """Whether an accepted label says just that."""
    try:
        kept, _ = read_labelmap(accepted.folder / row.file)
    except BadInputError:
        return False
    return np.array_equal(kept.reshape(label.shape), label) if kept.size == label.size else False


def _origin(
    sent: Sent, place: PatchLocation, one: Annotated, file: str, asked: Sequence[dict[str, Any]]
) -> Submission:
    since = [turn for turn in asked if one.serving is None or turn["at"] >= one.serving.served_at][
        -MOST_TURNS:
    ]
    shown = since[-1]["champion"] if since else ""
    return Submission(
        case_id=place.name,
        patient=sent.patient,
        rater=sent.rater,
        client_id=sent.client,
        recipe=sent.recipe,
        champion=shown or (one.serving.champion if one.serving else ""),
        tag=sent.tag,
        interactions=since,
        serving=one.serving,
        classes=sent.classes,
        details={
            XML_FILE: file,
            "xml_sha256": hashlib.sha256(sent.xml).hexdigest(),
            SENT_AS: sent.sent_as,
            OF: one.of,
            UM_PER_PX: sent.um_per_px,
        },
    )


def _with_proposal(
    origin: Submission, place: PatchLocation, shape: tuple[int, ...], proposed: Proposed
) -> Submission:
    said = proposed(place, origin.champion, (shape[0], shape[1])) if origin.champion else None
    return origin if said is None else replace(origin, proposal=said[..., None])


def _keep_xml(accepted: AcceptedLabels, sent: Sent) -> str:
    """Keep the submission as it came; its file below the folder of accepted labels, named after its content."""
    name = f"{file_name(sent.slide)}/{hashlib.sha256(sent.xml).hexdigest()[:16]}.xml"
    target: Path = accepted.folder / name
    with at_work(accepted.folder):
        target.parent.mkdir(exist_ok=True)
        draft = target.with_name(f".{uuid4().hex}.xml")
        try:
            draft.write_bytes(sent.xml)
            sync(draft)
            draft.replace(target)
            sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)
    return name
