"""The words of the project as frozen values. Knows numpy and torch, nothing of ours."""

from overread.domain.errors import (
    BadInputError,
    NotFoundError,
    OverreadError,
    UnavailableError,
    install_command,
)
from overread.domain.geometry import Grid
from overread.domain.opinions import Opinions, OpinionSums, first_choice
from overread.domain.registry import Registry
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.domain.uncertainty_map import UncertaintyMap

__all__ = [
    "BadInputError",
    "Grid",
    "NotFoundError",
    "OpinionSums",
    "Opinions",
    "OverreadError",
    "PatchLocation",
    "PixelSize",
    "Region",
    "Registry",
    "UnavailableError",
    "UncertaintyMap",
    "first_choice",
    "install_command",
]
