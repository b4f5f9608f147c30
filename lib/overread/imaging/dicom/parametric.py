"""Maps of doubt as DICOM parametric maps, 32-bit floats with their unit, and back."""

from __future__ import annotations

import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

import overread
from overread.domain import BadInputError
from overread.imaging.dicom.codes import private
from overread.imaging.dicom.origin import (
    LONG,
    MANUFACTURER,
    SERIES_NUMBER,
    SHORT,
    Origin,
    as_the_study_says,
    completed,
    person_name,
    serial_number,
    stamped,
)
from overread.imaging.dicom.segmentation import frames_of, slice_at
from overread.imaging.dicom.series import SeriesGeometry

# UCUM has no natural unit of information; a nat is a pure number.
# PS3.3 C.11.2.1.2: a linear window is no narrower.
LEAST_WINDOW = 1.0
NO_UNITS = CodedConcept("1", "UCUM", "no units")


def doubt_map(
    geometry: SeriesGeometry, doubt: np.ndarray, measure: str, unit: str, origin: Origin
) -> Dataset:
    """An uncertainty map as a parametric map.

    Args:
        doubt: `(i, j, k)` on the series' voxels, finite.
        measure: its name, such as `predictive_entropy`.
        unit: in words, such as `nat`.

    Raises:
        BadInputError: the map has another shape than the series.
    """
    if doubt.shape != geometry.shape:
        raise BadInputError(f"the map has shape {doubt.shape}, its series {geometry.shape}")
    highest = float(doubt.max(initial=0))
    label = measure.upper()[:SHORT]
    with as_the_study_says():
        made = ParametricMap(
            source_images=[completed(instance) for instance in geometry.instances],
            pixel_array=frames_of(geometry, doubt.astype(np.float32)),
            series_instance_uid=origin.series_uid,
            series_number=SERIES_NUMBER + 1,
            sop_instance_uid=origin.sop_uid,
            instance_number=1,
            device_serial_number=serial_number(origin),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label=label,
                    lut_explanation=f"{measure} in {unit}"[:LONG],
                    unit=NO_UNITS,
                    value_range=(0.0, max(highest, LEAST_WINDOW)),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=private(measure),
                )
            ],
            window_center=max(highest, LEAST_WINDOW) / 2,
            window_width=max(highest, LEAST_WINDOW),
            content_description=origin.description[:LONG] or None,
            content_creator_name=person_name(origin.reader) if origin.reader else None,
            content_label=MANUFACTURER.upper(),
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=overread.__version__,
        )
    return stamped(made, origin, measure)


def read_doubt_map(instance: Dataset, geometry: SeriesGeometry) -> np.ndarray:
    """The map on the series' voxels, `(i, j, k)` float32. Raises BadInputError where its frames are elsewhere."""
    values = np.frombuffer(instance.FloatPixelData, np.float32).reshape(-1, instance.Rows, instance.Columns)
    doubt = np.zeros(geometry.shape, np.float32)
    shared = instance.SharedFunctionalGroupsSequence[0]
    for frame, plane in zip(instance.PerFrameFunctionalGroupsSequence, values, strict=True):
        orientation = (frame if "PlaneOrientationSequence" in frame else shared).PlaneOrientationSequence[0]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        k = slice_at(geometry, position, np.array(orientation.ImageOrientationPatient, float))
        doubt[:, :, k] = plane.T
    return doubt
