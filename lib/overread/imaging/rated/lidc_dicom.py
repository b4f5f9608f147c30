"""LIDC-IDRI as TCIA hands it out: CT in DICOM, the readers' outlines in XML, anywhere below one folder.

    LIDC-IDRI-0001/…/*.dcm        each series in a folder of its own
    LIDC-IDRI-0001/…/069.xml      beside the series, or in a folder of all XML; found by the series they name

pylidc (0.2.3, its last version) does not run here: it needs `pkg_resources` and names that numpy removed in 1.24.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overread.domain import BadInputError, Grid, NotFoundError
from overread.imaging.dataset import Problem
from overread.imaging.rated.dataset import Examined, Fault, RatedCase, RatedDataset
from overread.imaging.rated.image import RatedImage
from overread.imaging.rated.layouts import layout
from overread.imaging.rated.lidc_series import (
    SUFFIX,
    SeriesHeader,
    Slice,
    dicom_files,
    read_hounsfield,
    read_series_header,
    read_slices,
)
from overread.imaging.rated.lidc_xml import MESSAGE, Contour, Mark, Reading, read_lidc_xml

CUTS = ("crop", "slice", "volume")
# Kohl et al. 2019 crop 180 pixels of 0.5 mm.
CROP_MM = 90.0
MARGIN_MM = 10.0
# Slices of one series lie closer than this only by rounding.
SAME_PLACE_MM = 1e-2

Span = tuple[int, int]
# SOP instance UID of a slice, and its z in mm.
Place = tuple[str, float]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LidcSource:
    """A part of a series with what its readers outlined there.

    Attributes:
        xml: of the readers.
        series: of the pixels.
        slices: SOP instance UID and place in mm of the outlined slices.
        x, y: pixels, the end excluded.
        beyond_mm: how far a volume goes on above and below the outlined slices; None is one slice as a picture.
    """

    xml: Path
    series: SeriesHeader
    slices: tuple[Place, ...]
    x: Span
    y: Span
    beyond_mm: float | None = None

    def examine(self, raters: tuple[str, ...]) -> Examined:
        """Read the slices, and fill what each reader outlined in them."""
        try:
            reading = read_lidc_xml(self.xml)
            by_uid = {each.sop_uid: each for each in read_slices(self.series.folder, self.series.uid)}
            if reading is None:
                return Examined(None, (Fault(self.xml, f"holds no {MESSAGE}"),))
            missing = [(uid, z_mm) for uid, z_mm in self.slices if uid not in by_uid]
            if missing:
                what = "lacks the slice at z {:g} mm that {} outlines"
                lacking = (what.format(z_mm, self.xml.name) for _, z_mm in missing)
                return Examined(None, tuple(Fault(self.series.folder, each) for each in lacking))
            slices = self._with_neighbours([by_uid[uid] for uid, _ in self.slices], by_uid.values())
            hounsfield = read_hounsfield([each.path for each in slices])
        except BadInputError as error:
            return Examined(None, (Fault(self.series.folder, str(error)),))
        masks = np.zeros((len(raters), *hounsfield.shape), bool)
        for reader in range(len(raters)):
            for index, each in enumerate(slices):
                masks[reader, index] = outlined(reading, reader, each.sop_uid, hounsfield.shape[1:])
        box = (slice(*self.x), slice(*self.y))
        image, masks = hounsfield[:, *box], masks[:, :, *box]
        if self.beyond_mm is None:
            return Examined(
                RatedImage(image.copy(), masks[:, 0].copy(), raters, self.series.spacing_mm),
            )
        # A single slice says nothing about the distance to the next.
        between_mm = np.diff([each.z_mm for each in slices])
        spacing_mm = (*self.series.spacing_mm, float(np.median(between_mm))) if len(between_mm) else None
        volume = np.ascontiguousarray(np.moveaxis(image, 0, -1))[None]
        # DICOM's columns run to the left, its rows to the back.
        affine = None if spacing_mm is None else np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
        grid = None if affine is None else Grid(volume.shape[1:], affine)
        return Examined(
            RatedImage(volume, np.ascontiguousarray(np.moveaxis(masks, 1, -1)), raters, spacing_mm, grid)
        )

    def _with_neighbours(self, outlined: list[Slice], there: Iterable[Slice]) -> list[Slice]:
        if self.beyond_mm is None:
            return outlined
        low = min(each.z_mm for each in outlined) - self.beyond_mm - SAME_PLACE_MM
        high = max(each.z_mm for each in outlined) + self.beyond_mm + SAME_PLACE_MM
        return [each for each in there if low <= each.z_mm <= high]


def outlined(reading: Reading, reader: int, sop_uid: str, shape: tuple[int, ...]) -> np.ndarray:
    """All that one reader outlined in a slice, bool `(x, y)`."""
    mask = np.zeros(shape, bool)
    for mark in (mark for mark in reading.marks if mark.reader == reader):
        for contour in sorted(mark.contours, key=lambda each: not each.included):
            if contour.sop_uid != sop_uid:
                continue
            first_x, last_x, first_y, last_y = contour.box
            inside = contour.inside()
            # A reader's tool may leave the picture.
            cut_x, cut_y = max(-first_x, 0), max(-first_y, 0)
            place = mask[first_x + cut_x : last_x + 1, first_y + cut_y : last_y + 1]
            inside = inside[cut_x : cut_x + place.shape[0], cut_y : cut_y + place.shape[1]]
            place[inside] = contour.included
    return mask


def _xml_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.xml")):
        with path.open("rb") as file:
            if MESSAGE.encode() in file.read(2048):
                yield path


@layout(
    "lidc_dicom",
    looks_like=f"DICOM series ({SUFFIX}) and XML with {MESSAGE}",
    recognises=lambda folder: next(_xml_files(folder), None) is not None,
)
def read_lidc_dicom(
    folder: Path, *, cut: str = "crop", crop_mm: float = CROP_MM, margin_mm: float = MARGIN_MM
) -> RatedDataset:
    """List what the readers outlined, by nodule; readers are `reader1` … in the order of their sessions.

    Outlines of several readers are of one nodule where their boxes overlap in a slice (as Kohl et al. 2019 take it,
    here linked over all slices). A mask holds all that its reader outlined within the cut, neighbouring nodules
    included. Pixels are the scanner's: crops of one size in mm have different numbers of pixels.

    Args:
        folder: anything above series and XML; series without XML, and XML without series, are left out.
        cut: `crop`: each slice of each nodule, a square around it; `slice`: each slice with an outline, whole;
            `volume`: each nodule in three axes.
        crop_mm: edge of the square.
        margin_mm: what a volume holds around the nodule.

    Raises:
        BadInputError: no such cut, or a size that is not above 0. NotFoundError: no XML names a series that is here.
    """
    if cut not in CUTS:
        raise BadInputError(f"LIDC has no cut {cut!r}; there are {', '.join(CUTS)}")
    if not crop_mm > 0 or not margin_mm >= 0:
        raise BadInputError(
            f"a crop needs an edge above 0 mm and a margin of 0 or more, got {crop_mm}, {margin_mm}"
        )
    strays: list[Problem] = []
    headers = _series(folder, strays)
    pairs: list[tuple[Path, Reading, SeriesHeader]] = []
    without = 0
    for path in _xml_files(folder):
        try:
            reading = read_lidc_xml(path)
        except BadInputError as error:
            strays.append(Problem("", path.name, str(error)))
            continue
        if reading is not None and reading.series_uid in headers:
            pairs.append((path, reading, headers[reading.series_uid]))
        else:
            without += 1
    if not pairs:
        raise NotFoundError(
            f"{folder}: no XML names a CT series that is here ({without} XML files, {len(headers)} series)"
        )
    if without:
        log.info("%d XML files in %s name no series that is here", without, folder)
    scans = Counter(header.patient for _, _, header in pairs)
    count: Counter[str] = Counter()
    cases = []
    for path, reading, header in sorted(pairs, key=lambda pair: (pair[2].patient, pair[2].uid)):
        count[header.patient] += 1
        scan = f"_scan{count[header.patient]}" if scans[header.patient] > 1 else ""
        raters = tuple(f"reader{number}" for number in range(1, reading.readers + 1))
        cases += [
            RatedCase(f"{header.patient}{scan}_{name}", header.patient, raters, source)
            for name, source in _cuts(path, reading, header, cut, crop_mm, margin_mm)
        ]
    return RatedDataset(folder.resolve().name, tuple(cases), same_raters=False, strays=tuple(strays))


def _series(folder: Path, strays: list[Problem]) -> dict[str, SeriesHeader]:
    """CT series by UID; the first file of each folder speaks for it."""
    headers = {}
    for place in sorted({path.parent for path in folder.rglob("*") if path.suffix.lower() == SUFFIX}):
        first = dicom_files(place)[0]
        try:
            header = read_series_header(first)
        except BadInputError as error:
            strays.append(Problem("", first.name, str(error)))
            continue
        if header is not None:
            headers[header.uid] = header
    return headers


def _cuts(
    xml: Path, reading: Reading, header: SeriesHeader, cut: str, crop_mm: float, margin_mm: float
) -> Iterator[tuple[str, LidcSource]]:
    """Names and sources of a scan's cases."""
    width, height = header.shape
    if cut == "slice":
        marked = _enclosing(reading.marks)
        for uid, z_mm in _places(marked):
            yield f"z{z_mm:g}", LidcSource(xml, header, ((uid, z_mm),), (0, width), (0, height))
        return
    for number, marks in enumerate(nodules(reading), start=1):
        contours = _enclosing(marks)
        places = _places(contours)
        if cut == "volume" and places:
            margins = [round(margin_mm / spacing) for spacing in header.spacing_mm]
            x, y = _around(contours, margins, header.shape)
            yield f"n{number}", LidcSource(xml, header, places, x, y, beyond_mm=margin_mm)
        elif cut == "crop":
            for uid, z_mm in places:
                here = _around([each for each in contours if each.sop_uid == uid], (0, 0), header.shape)
                x, y = (
                    _square(span, round(crop_mm / spacing), size)
                    for span, spacing, size in zip(here, header.spacing_mm, header.shape, strict=True)
                )
                yield f"n{number}_z{z_mm:g}", LidcSource(xml, header, ((uid, z_mm),), x, y)


def _enclosing(marks: Iterable[Mark]) -> list[Contour]:
    """Outlines that enclose a pixel; the last slices of a nodule are often outlined without anything inside."""
    return [each for mark in marks for each in mark.contours if each.included and each.inside().any()]


def _places(contours: Iterable[Contour]) -> tuple[Place, ...]:
    """The slices of these outlines, from foot to head."""
    return tuple(sorted({each.sop_uid: each.z_mm for each in contours}.items(), key=lambda place: place[1]))


def nodules(reading: Reading) -> tuple[tuple[Mark, ...], ...]:
    """Marks that are of one nodule, from foot to head."""
    groups: list[list[Mark]] = []
    for mark in reading.marks:
        touched = [group for group in groups if any(_overlap(mark, other) for other in group)]
        joined = [mark, *(other for group in touched for other in group)]
        groups = [group for group in groups if group not in touched] + [joined]
    for group in groups:
        group.sort(key=lambda mark: (mark.reader, mark.contours[0].z_mm))
    return tuple(tuple(group) for group in sorted(groups, key=_lowest))


def _overlap(first: Mark, second: Mark) -> bool:
    boxes = {contour.sop_uid: [] for contour in first.contours}
    for contour in first.contours:
        boxes[contour.sop_uid].append(contour.box)
    return any(
        a[0] <= b[1] and b[0] <= a[1] and a[2] <= b[3] and b[2] <= a[3]
        for contour in second.contours
        for a in boxes.get(contour.sop_uid, ())
        for b in (contour.box,)
    )


def _lowest(group: list[Mark]) -> tuple[float, int, int]:
    return min((each.z_mm, each.box[0], each.box[2]) for mark in group for each in mark.contours)


def _around(contours: Sequence[Contour], margins: Sequence[int], shape: tuple[int, int]) -> tuple[Span, Span]:
    boxes = np.array([each.box for each in contours])
    x = (max(int(boxes[:, 0].min()) - margins[0], 0), min(int(boxes[:, 1].max()) + margins[0] + 1, shape[0]))
    y = (max(int(boxes[:, 2].min()) - margins[1], 0), min(int(boxes[:, 3].max()) + margins[1] + 1, shape[1]))
    return x, y


def _square(span: Span, edge: int, size: int) -> Span:
    """A span of `edge` pixels around the middle of another, moved where it would leave the picture."""
    edge = min(max(edge, 1), size)
    first = min(max((span[0] + span[1] - edge) // 2, 0), size - edge)
    return first, first + edge
