"""A model's answer as a DICOM SEG, for clients that ask for `output=dicom_seg`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pydicom

from overread.imaging.dicom.origin import Origin
from overread.imaging.dicom.segmentation import label_segmentation
from overread.imaging.dicom.series import SeriesGeometry


def answer_segmentation(geometry: SeriesGeometry, labels: np.ndarray, facts: Mapping[str, Any]) -> bytes:
    """The answer as a DICOM file: a segment for each name that the answer knows, the bands of doubt among them.

    Args:
        labels: `(i, j, k)`, with values as `facts["label_names"]` names them.
        facts: of the answer.
    """
    names = sorted(facts["label_names"].items(), key=lambda each: each[1])
    order = np.zeros(np.iinfo(np.uint8).max + 1, np.uint8)
    for index, (_, value) in enumerate(names, start=1):
        order[value] = index
    origin = Origin(
        key=f"answer|{facts['model']}|{time.time_ns()}",
        recipe=facts["model"],
        champion=facts["champion"],
        description="proposal, accepted by nobody",
    )
    made = label_segmentation(geometry, order[labels], ["background", *(name for name, _ in names)], origin)
    file = BytesIO()
    pydicom.dcmwrite(file, made, write_like_original=False)
    return file.getvalue()
