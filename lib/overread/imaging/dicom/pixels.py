"""Stored values of a DICOM file, whatever transfer syntax they came in."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import convert_color_space

from overread.domain import BadInputError
from overread.imaging.dicom.damage import first_line

# Segmentation, label map segmentation, surface segmentation, parametric map.
DERIVED = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("66.4", "66.7", "66.5", "30"))
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# ITU-R BT.601, as pictures are made grey.
LUMINANCE = np.array([0.299, 0.587, 0.114])


def has_pixels(instance: Dataset) -> bool:
    """Whether a file holds an image, and not what was derived from one: a segmentation or a parametric map."""
    return "PixelData" in instance and str(instance.get("SOPClassUID")) not in DERIVED


def stored_values(instance: Dataset) -> np.ndarray:
    """Pixels as stored: `(row, column)`, with frames in front, and colours, as RGB, behind.

    JPEG, JPEG lossless, JPEG-LS, JPEG 2000 and RLE are decoded by GDCM and pydicom.

    Raises:
        BadInputError: they cannot be decoded; the sentence names the transfer syntax.
    """
    syntax = instance.file_meta.get("TransferSyntaxUID") if hasattr(instance, "file_meta") else None
    if "PhotometricInterpretation" not in instance:
        instance.PhotometricInterpretation = (
            "RGB" if int(instance.get("SamplesPerPixel") or 1) == 3 else "MONOCHROME2"
        )
    if "SamplesPerPixel" not in instance:
        instance.SamplesPerPixel = 1
    try:
        pixels = instance.pixel_array
        photometric = str(instance.PhotometricInterpretation)
        if photometric.startswith("YBR"):
            pixels = convert_color_space(pixels, photometric, "RGB")
    except Exception as error:  # each decoder raises what its library raises
        kind = syntax.name if syntax is not None else "unknown"
        raise BadInputError(
            f"instance {instance.get('SOPInstanceUID')} cannot be decoded ({kind}): {first_line(error)}"
        ) from error
    return pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    """Luminance of RGB pixels, whole numbers; grey pixels as they are."""
    return pixels if pixels.ndim == 2 else np.rint(pixels[..., :3] @ LUMINANCE).astype(pixels.dtype)
