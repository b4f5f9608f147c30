"""Who stores a segmentation through this server: OHIF's name nobody."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from io import BytesIO

import pydicom

from overread.imaging.dicom.segmentation import SEG_CLASS


def segmentations_in(content_type: str, body: bytes) -> Iterator[str]:
    """SOPInstanceUIDs of the DICOM SEG files in a request of STOW-RS; what cannot be read is for the PACS to refuse.

    Args:
        content_type: the request's header, `multipart/related` with a boundary (PS3.18 section 8.6).
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    for part in body.split(b"--" + boundary.encode()) if boundary else ():
        _, _, content = part.partition(b"\r\n\r\n")
        try:
            instance = pydicom.dcmread(
                BytesIO(content), stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"]
            )
        except Exception:  # pydicom raises what it likes on what it cannot read
            continue
        if instance.get("SOPClassUID") == SEG_CLASS and instance.get("SOPInstanceUID"):
            yield str(instance.SOPInstanceUID)
