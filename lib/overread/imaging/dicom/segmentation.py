"""Label maps as DICOM SEG objects on the slices of their series, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

import overread
from overread.domain import BadInputError
from overread.imaging.dicom.codes import category_of, side_of, type_of
from overread.imaging.dicom.damage import damage_named
from overread.imaging.dicom.origin import (
    LONG,
    MANUFACTURER,
    SERIES_NUMBER,
    Origin,
    as_the_study_says,
    completed,
    person_name,
    serial_number,
    stamped,
)
from overread.imaging.dicom.pixels import stored_values
from overread.imaging.dicom.series import PARALLEL, SeriesGeometry

# CID 7162: what family of algorithms made a segment.
ARTIFICIAL_INTELLIGENCE = CodedConcept("123110", "DCM", "Artificial Intelligence")
SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
# A frame belongs to the slice that is at most this share of the slice distance away.
NEAR = 0.1
NEAR_MM = 0.05
# 8 bits: PS3.3 C.8.20.2 allows 255 steps of a fraction.
STEPS = 255


@dataclass(frozen=True, eq=False)
class Segments:
    """What a DICOM SEG says about a series.

    Attributes:
        names: of the segments, as they are labelled.
        masks: one a segment, bool `(segment, i, j, k)`.
        is_automatic: whether no person had a hand in any of them.
        creator: who made it; empty where it does not say.
        manufacturer: of the program.
    """

    names: tuple[str, ...]
    masks: np.ndarray
    is_automatic: bool
    creator: str
    manufacturer: str


def label_segmentation(
    geometry: SeriesGeometry, labels: np.ndarray, classes: Sequence[str], origin: Origin
) -> Dataset:
    """A binary SEG with one segment a class, each with a frame on every slice, empty ones too.

    Args:
        labels: class indices `(i, j, k)` on the series' voxels; what is no class is in no segment.
        classes: names, the background first.

    Raises:
        BadInputError: the label has another shape than the series, or there is no class.
    """
    names = tuple(classes[1:])
    masks = np.stack([labels == value for value in range(1, len(classes))], axis=-1) if names else labels
    return _segmentation(geometry, masks, names, origin, SegmentationTypeValues.BINARY, "label")


def probability_segmentation(
    geometry: SeriesGeometry, probabilities: np.ndarray, classes: Sequence[str], origin: Origin
) -> Dataset:
    """A fractional SEG of class probabilities, in steps of 1/255.

    Args:
        probabilities: `(class, i, j, k)` in 0..1, without the background.
        classes: names of those.
    """
    stack = np.moveaxis(np.clip(probabilities, 0, 1), 0, -1).astype(np.float32)
    return _segmentation(
        geometry, stack, tuple(classes), origin, SegmentationTypeValues.FRACTIONAL, "probability"
    )


def _segmentation(
    geometry: SeriesGeometry,
    stack: np.ndarray,
    names: tuple[str, ...],
    origin: Origin,
    kind: SegmentationTypeValues,
    what: str,
) -> Dataset:
    if not names:
        raise BadInputError("a segmentation needs at least one class beside the background")
    if stack.shape[:3] != geometry.shape:
        raise BadInputError(f"the label has shape {stack.shape[:3]}, its series {geometry.shape}")
    with as_the_study_says():
        made = Segmentation(
            source_images=[completed(instance) for instance in geometry.instances],
            pixel_array=frames_of(geometry, stack),
            segmentation_type=kind,
            fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
            max_fractional_value=STEPS,
            segment_descriptions=[
                _description(number, name, origin, kind) for number, name in enumerate(names, start=1)
            ],
            series_instance_uid=origin.series_uid,
            series_number=SERIES_NUMBER,
            sop_instance_uid=origin.sop_uid,
            instance_number=1,
            device_serial_number=serial_number(origin),
            content_description=origin.description[:LONG] or None,
            content_creator_name=person_name(origin.reader) if origin.reader else None,
            content_label=MANUFACTURER.upper(),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=False,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=overread.__version__,
        )
    return stamped(made, origin, what)


def frames_of(geometry: SeriesGeometry, voxels: np.ndarray) -> np.ndarray:
    """Voxels `(i, j, k, …)` as frames `(frame, row, column, …)` in the order of the series' files or frames."""
    frames = np.moveaxis(voxels, (0, 1, 2), (2, 1, 0))
    if geometry.is_multiframe:
        order = np.argsort([frame for _, frame in geometry.sources])
        frames = frames[order]
    return np.ascontiguousarray(frames)


def _description(number: int, name: str, origin: Origin, kind: SegmentationTypeValues) -> SegmentDescription:
    algorithm = None
    how = SegmentAlgorithmTypeValues.MANUAL
    if origin.champion or origin.recipe:
        algorithm = AlgorithmIdentificationSequence(
            name=(origin.recipe or MANUFACTURER)[:LONG],
            family=ARTIFICIAL_INTELLIGENCE,
            version=(origin.champion or "unknown")[:LONG],
            source=MANUFACTURER,
        )
        # What nobody looked at is the machine's own; what somebody accepted is both people's and machine's work.
        accepted = bool(origin.reader) and kind is SegmentationTypeValues.BINARY
        how = SegmentAlgorithmTypeValues.SEMIAUTOMATIC if accepted else SegmentAlgorithmTypeValues.AUTOMATIC
        if accepted and not origin.champion:
            algorithm, how = None, SegmentAlgorithmTypeValues.MANUAL
    description = SegmentDescription(
        segment_number=number,
        segment_label=name[:LONG],
        segmented_property_category=category_of(name),
        segmented_property_type=type_of(name),
        algorithm_type=how,
        algorithm_identification=algorithm,
    )
    side = side_of(name)
    if side is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description


def read_segmentation_object(instance: Dataset, geometry: SeriesGeometry) -> Segments:
    """What a binary SEG of anybody's says about a series; slices that it leaves out are empty.

    Frames find their slices by place, not by order.

    Raises:
        BadInputError: it is fractional or damaged, or its frames are not on the series' slices.
    """
    with damage_named("the segmentation"):
        return _segments(instance, geometry)


def _segments(instance: Dataset, geometry: SeriesGeometry) -> Segments:
    if str(instance.get("SOPClassUID")) != SEG_CLASS:
        raise BadInputError(f"it is no DICOM SEG, but {instance.get('SOPClassUID')}")
    if instance.get("SegmentationType") != "BINARY":
        raise BadInputError(f"it is a {instance.get('SegmentationType')} segmentation; a label is BINARY")
    segments = {int(each.SegmentNumber): each for each in instance.SegmentSequence}
    size = (int(instance.Rows), int(instance.Columns))
    frames = instance.PerFrameFunctionalGroupsSequence
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if size != geometry.size:
        raise BadInputError(
            f"its frames have {size[1]}x{size[0]} pixels, the series {geometry.size[1]}x{geometry.size[0]}"
        )
    pixels = stored_values(instance)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if len(pixels) != len(frames):
        raise BadInputError(f"it has {len(pixels)} frames, and the places of {len(frames)}")
    order = {number: index for index, number in enumerate(segments)}
    masks = np.zeros((len(segments), *geometry.shape), bool)
    for frame, values in zip(frames, pixels, strict=True):
        number = int(_macro(frame, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        position = _macro(frame, shared, "PlanePositionSequence").ImagePositionPatient
        orientation = _macro(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient
        k = slice_at(geometry, np.array(position, float), np.array(orientation, float))
        masks[order[number], :, :, k] |= values.T > 0
    return Segments(
        names=tuple(str(each.get("SegmentLabel") or f"segment {n}") for n, each in segments.items()),
        masks=masks,
        is_automatic=all(each.get("SegmentAlgorithmType") == "AUTOMATIC" for each in segments.values()),
        creator=str(instance.get("ContentCreatorName") or ""),
        manufacturer=str(instance.get("Manufacturer") or ""),
    )


def slice_at(geometry: SeriesGeometry, position: np.ndarray, orientation: np.ndarray) -> int:
    """Which slice lies at a frame's place. Raises BadInputError where none does."""
    if np.abs(orientation.reshape(2, 3) - geometry.orientation).max() > 10 * PARALLEL:
        raise BadInputError("its frames are turned against the slices of the series")
    apart_mm = np.linalg.norm(geometry.positions - position, axis=1)
    k = int(apart_mm.argmin())
    heights = geometry.positions @ geometry.normal
    near_mm = max(NEAR_MM, NEAR * float(np.median(np.diff(heights)))) if len(heights) > 1 else NEAR_MM
    if apart_mm[k] > near_mm:
        raise BadInputError(
            f"a frame lies {apart_mm[k]:.3g} mm beside the nearest slice: it belongs to another series or grid"
        )
    return k


def referenced_series(instance: Dataset) -> tuple[str, ...]:
    """UIDs of the series that a derived object says it belongs to."""
    found: dict[str, None] = {}
    for reference in instance.get("ReferencedSeriesSequence") or []:
        if reference.get("SeriesInstanceUID"):
            found[str(reference.SeriesInstanceUID)] = None
    return tuple(found)


def referenced_instances(instance: Dataset) -> frozenset[str]:
    """UIDs of the images that a derived object was made from."""
    found: set[str] = set()
    for reference in instance.get("ReferencedSeriesSequence") or []:
        found |= {
            str(each.ReferencedSOPInstanceUID) for each in reference.get("ReferencedInstanceSequence") or []
        }
    for frame in instance.get("PerFrameFunctionalGroupsSequence") or []:
        for derivation in frame.get("DerivationImageSequence") or []:
            found |= {
                str(each.ReferencedSOPInstanceUID) for each in derivation.get("SourceImageSequence") or []
            }
    return frozenset(found)


def _macro(frame: Dataset, shared: Dataset, keyword: str) -> Any:
    for group in (frame, shared):
        if group.get(keyword):
            return group[keyword].value[0]
    raise BadInputError(f"a frame of it has no {keyword}")
