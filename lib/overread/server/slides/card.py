"""What a MedUHIP champion for slides tells about itself."""

from __future__ import annotations

from typing import Any

from overread.server.card import ModelCard
from overread.server.meduhip.preferences import Wish


class SlideTurnCard(ModelCard):
    """Description of a recipe whose champion is a MedUHIP model, and is asked about slides."""

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table; the first of each list is the default."""
        return super().config() | Wish.options(self._models.settings.preference)
