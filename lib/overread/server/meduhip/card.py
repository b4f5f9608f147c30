"""What a MedUHIP model tells about itself, and what a reader may choose in a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overread.domain import BadInputError
from overread.meduhip.doubt import PARTS
from overread.server.card import ModelCard, choice, first
from overread.server.doubt import DOUBT_MODES, DoubtMode
from overread.server.meduhip.preferences import Wish
from overread.server.meduhip.turns import NONE_OF_THESE
from overread.server.overlays import (
    CANDIDATE_LETTERS,
    CANDIDATE_MODES,
    CandidateMode,
    label_values,
)
from overread.uncertainty.measures import MEASURES

AUTO = "auto"


@dataclass(frozen=True)
class TurnChoices:
    """What the reader chose for one turn.

    Attributes:
        candidate: name of the candidate that is wanted, `none of these`, or empty.
        candidates, doubt: how either is shown.
        measure: uncertainty map, or a part of the doubt (see `meduhip.doubt`), with which the others come too.
        wish: with which preferences a case begins.
        markups: labelled points instead of a label map.
        reset: begin anew. 3D Slicer's `reset_state`, which it sends with the first request after another label was
            selected, is none: it says that the model looks at another class now, and nothing is taken back.
    """

    candidate: str
    candidates: CandidateMode
    doubt: DoubtMode
    measure: str
    wish: Wish
    markups: bool
    reset: bool


class TurnCard(ModelCard):
    """Description of a recipe whose champion is a MedUHIP model."""

    @property
    def dimension(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self._models.description(self.recipe.name)["plan"]["patch"])

    def info(self, dimension: int) -> dict[str, Any]:
        """What clients show; a `deepedit` model takes clicks in 3D Slicer and OHIF."""
        return super().info(dimension) | {"type": "deepedit"}

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table; the first of each list is the default."""
        return {
            "candidate": [AUTO, *CANDIDATE_LETTERS, NONE_OF_THESE],
            "candidates": list(CANDIDATE_MODES),
            "doubt": first(self._models.settings.doubt, DOUBT_MODES),
            "measure": first(self.default_measure, (*MEASURES, *PARTS)),
            **Wish.options(self._models.settings.preference),
            "markups": False,
        }

    def turn_choices(self, request: Mapping[str, Any]) -> TurnChoices:
        """The reader's choices, with the defaults for what was not sent.

        Raises:
            BadInputError: a choice that is not in the table.
        """
        table = self.config()
        wanted = choice(request, "candidate", table["candidate"])
        return TurnChoices(
            candidate=f"candidate {wanted}" if wanted in CANDIDATE_LETTERS else wanted.replace(AUTO, ""),
            candidates=next(
                m for m in CANDIDATE_MODES if m == choice(request, "candidates", table["candidates"])
            ),
            doubt=next(m for m in DOUBT_MODES if m == choice(request, "doubt", table["doubt"])),
            measure=choice(request, "measure", table["measure"]),
            wish=Wish.read(request, self._models.settings.preference),
            markups=_is_set(request, "markups"),
            reset=_is_set(request, "reset"),
        )

    def label_values(self) -> dict[str, int]:
        """Label names to voxel values of an ordinary answer."""
        return label_values(self._models.classes(self.recipe.name), self.lists_bands())


def _is_set(request: Mapping[str, Any], key: str) -> bool:
    value = request.get(key)
    if value is None or value == "":
        return False
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise BadInputError(f"{key} is {value!r}, expected true or false")
    return str(value).lower() == "true"
