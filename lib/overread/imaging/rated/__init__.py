"""Data sets in which several people labelled one image, and the layouts in which they are published."""

from overread.imaging.rated import lidc_dicom, lidc_kohl, qubiq, rated, refuge2_multirater, single  # noqa: F401
from overread.imaging.rated.dataset import (
    Fold,
    RatedCase,
    RatedDataset,
    check_rated,
    ensure_rated_sound,
)
from overread.imaging.rated.image import RatedImage
from overread.imaging.rated.layouts import AUTO, LAYOUTS, Layout, layout, read_rated

__all__ = [
    "AUTO",
    "LAYOUTS",
    "Fold",
    "Layout",
    "RatedCase",
    "RatedDataset",
    "RatedImage",
    "check_rated",
    "ensure_rated_sound",
    "layout",
    "read_rated",
]
