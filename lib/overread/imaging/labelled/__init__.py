"""Slides whose lesions were outlined, in the layouts in which they are published."""

from overread.imaging.labelled.camelyon import read_camelyon
from overread.imaging.labelled.dataset import (
    LESION,
    LabelledSlide,
    LabelledSlides,
    check_slides,
    ensure_slides_sound,
)

__all__ = [
    "LESION",
    "LabelledSlide",
    "LabelledSlides",
    "check_slides",
    "ensure_slides_sound",
    "read_camelyon",
]
