"""What a served model tells about itself, and what a reader may choose about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overread.domain import BadInputError
from overread.learning.champions import HASH_LENGTH
from overread.recipes import recipe_named
from overread.server.doubt import DOUBT_MODES, DoubtMode, band_facts, label_values
from overread.server.models import ServedModels
from overread.uncertainty.measures import MEASURES

ALL_MEMBERS = "all"


@dataclass(frozen=True)
class Choices:
    """What the reader chose for one inference.

    Attributes:
        measure: uncertainty map.
        doubt: how it is shown.
        members: how many are asked; None for all.
    """

    measure: str
    doubt: DoubtMode
    members: int | None


class ModelCard:
    """Description of a recipe's champion, read from the one in service at that moment.

    So a champion that was published meanwhile is described, and asked, without a restart.

    Attributes:
        recipe: see its type.
    """

    def __init__(self, recipe: str, models: ServedModels) -> None:
        self.recipe, self._models = recipe_named(recipe), models

    @property
    def is_served(self) -> bool:
        """Whether the model can be asked now."""
        return self.recipe.name in self._models.names()

    def info(self, dimension: int) -> dict[str, Any]:
        """What clients show: label values, options, the champion and what its bands were worth."""
        description = self._models.description(self.recipe.name)
        measure = self.default_measure
        return {
            "type": "segmentation",
            "labels": self.label_values(),
            "dimension": dimension,
            "description": self.recipe.description,
            "config": self.config(),
            "champion": description["identity"][:HASH_LENGTH],
            "doubt": band_facts(measure, self._models.calibration(self.recipe.name).bands.get(measure)),
        }

    def config(self) -> dict[str, Any]:
        """Options for the viewer's table; the first of each list is the default."""
        first_members = self._models.settings.members
        return {
            "doubt": first(self._models.settings.doubt, DOUBT_MODES),
            "measure": first(self.default_measure, tuple(MEASURES)),
            "members": first(
                str(first_members or ALL_MEMBERS),
                (ALL_MEMBERS, *(str(n) for n in range(1, self._models.member_count(self.recipe.name) + 1))),
            ),
        }

    def choices(self, request: Mapping[str, Any]) -> Choices:
        """The reader's choices, with the defaults for what was not sent.

        Raises:
            BadInputError: a choice that is not in the table.
        """
        table = self.config()
        members = choice(request, "members", table["members"])
        return Choices(
            measure=choice(request, "measure", table["measure"]),
            doubt=next(m for m in DOUBT_MODES if m == choice(request, "doubt", table["doubt"])),
            members=None if members == ALL_MEMBERS else int(members),
        )

    @property
    def default_measure(self) -> str:
        """The uncertainty map that is shown unless the reader picks another."""
        return self._models.settings.measure or self.recipe.measure

    def label_values(self) -> dict[str, int]:
        """Label names to voxel values of an ordinary answer."""
        return label_values(self._models.classes(self.recipe.name), self.lists_bands())

    def lists_bands(self) -> bool:
        """Whether any measure has calibrated bands, so that their names belong to the model."""
        return bool(self._models.calibration(self.recipe.name).bands)


def first(default: str, known: tuple[str, ...]) -> list[str]:
    """All names, the default first."""
    return [default, *(name for name in known if name != default)]


def choice(request: Mapping[str, Any], key: str, known: list[str]) -> str:
    """What the reader chose of a table's entry, the first where nothing was. Raises BadInputError for anything else."""
    value = request.get(key)
    # A client that did not show the table sends it back whole, or nothing.
    value = value[0] if isinstance(value, list) and value else value
    if value is None or value == "":
        return known[0]
    if str(value) not in known:
        raise BadInputError(f"{key} {value!r} is not offered; there are {', '.join(known)}")
    return str(value)
