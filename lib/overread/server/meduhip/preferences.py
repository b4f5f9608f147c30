"""What the server asks of, and tells, the memory of a clinician's preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from overread.meduhip.reader import OpenImage, Reader
from overread.meduhip.session import StructureState

USUAL_STYLE = "my usual style"
NO_STYLE = "off"
STYLES = (USUAL_STYLE, NO_STYLE)
DEFAULT_PURPOSE = "diagnosis"


class Preferences(Protocol):
    """What is known of how each person draws, by recipe and purpose."""

    def priors(
        self, person: str, recipe: str, purpose: str, reader: Reader
    ) -> tuple[StructureState, ...] | None:
        """Where a new case begins for a person, one state a structure; None where nothing is known of them."""
        ...

    def accepted(
        self,
        person: str,
        recipe: str,
        purpose: str,
        reader: Reader,
        opened: OpenImage,
        masks_per_structure: Sequence[torch.Tensor],
        now: float,
    ) -> None:
        """Learn from a label that a person gave for a case which they had asked about.

        Args:
            opened: the case.
            masks_per_structure: one boolean `(*space)` a structure, in the model's voxels.
            now: seconds since 1970.
        """
        ...


class NoPreferences:
    """Remembers nothing."""

    def priors(
        self, person: str, recipe: str, purpose: str, reader: Reader
    ) -> tuple[StructureState, ...] | None:
        """See `Preferences`."""
        return None

    def accepted(
        self,
        person: str,
        recipe: str,
        purpose: str,
        reader: Reader,
        opened: OpenImage,
        masks_per_structure: Sequence[torch.Tensor],
        now: float,
    ) -> None:
        """See `Preferences`."""
