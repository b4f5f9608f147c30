"""What the study wrote down, as its JSON has it: one row a held-out case, pick, patch and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from overread.domain import BadInputError

# Arms that ask for no patch: no labels, all labels, and what costs no label.
BASELINE, CEILING = "none", "all"
UNASKED = (BASELINE, CEILING, "hed", "adabn", "pseudo")
RANDOM, FOREGROUND_RANDOM = "random", "foreground_random"
CHANCE = (RANDOM, FOREGROUND_RANDOM)

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Study:
    """What was done.

    Attributes:
        set: name of the data.
        preset: how large everything was.
        budgets: patches asked in each domain, ascending, from 0.
        arms, seeds: that took part.
        central: the domain that the model was first trained on.
        domains: where cases were held out; the central one may be among them.
        patch_px, um_per_px: of the patches; None for volumes, which are asked about as a whole.
        command: that made it.
        seconds: that its pieces took, one after another; None where that was not measured.
    """

    set: str
    preset: str
    budgets: tuple[int, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    central: str
    domains: tuple[str, ...]
    patch_px: int | None = None
    um_per_px: float | None = None
    command: str = ""
    seconds: float | None = None

    @property
    def local(self) -> tuple[str, ...]:
        """Domains that the model was not first trained on."""
        return tuple(domain for domain in self.domains if domain != self.central)

    @property
    def unit(self) -> str:
        """What a budget counts, in a domain."""
        return "patches" if self.um_per_px else "cases"

    @property
    def asking(self) -> tuple[str, ...]:
        """Arms that ask for patches, chance among them."""
        return tuple(arm for arm in self.arms if arm not in UNASKED)

    @property
    def by_doubt(self) -> tuple[str, ...]:
        """Arms that ask for patches, and not by chance."""
        return tuple(arm for arm in self.asking if arm not in CHANCE)


@dataclass(frozen=True)
class Outcome:
    """What one training made of one held-out case.

    Attributes:
        dice: mean over classes; None where the truth holds none of them.
        kind: class of the case, such as `macro`; empty where cases have none.
        patient: whose it is; the case itself where nobody tells.
        false_mm2: what was called a structure and is none (of a volume mm³).
    """

    seed: int
    arm: str
    budget: int
    domain: str
    case: str
    dice: float | None
    kind: str = ""
    dice_per_class: Mapping[str, float | None] | None = None
    patient: str = ""
    false_mm2: float | None = None


@dataclass(frozen=True)
class Pick:
    """One patch that was asked about.

    Attributes:
        budget: of the round in which it was asked.
        box: x, y, width, height; None where a whole volume was asked.
        mm2: its area; of a volume mm³.
        tissue_share: of all the tissue (of all voxels, in volumes) that could have been asked about in its domain.
        foreground_share: of its pixels, by the truth.
    """

    seed: int
    arm: str
    budget: int
    domain: str
    case: str
    box: tuple[float, ...] | None = None
    score: float | None = None
    mm2: float | None = None
    tissue_share: float | None = None
    foreground_share: float | None = None


@dataclass(frozen=True)
class Patch:
    """Doubt and quality of one patch before anything was asked; Dice is None where nothing is there to be found."""

    seed: int
    domain: str
    case: str
    measure: str
    uncertainty: float
    dice: float | None
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Doubt:
    """What the doubt of one model was worth on the held-out cases of a domain.

    Attributes:
        aurc, augrc: see `metrics.selective`.
        ece_before, ece_after: expected calibration error without and with its temperature.
        temperature: that was fitted on the central cases that no member learnt from.
        error_share: share of all pixels that are wrong.
        errors_in_high, errors_in_moderate: share of all wrong pixels inside `doubt: high`, and inside that or
            `doubt: moderate`.
        shown_in_high, shown_in_moderate: share of all pixels there.
    """

    seed: int
    arm: str
    domain: str
    budget: int = 0
    aurc: float | None = None
    augrc: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None
    temperature: float | None = None
    error_share: float | None = None
    errors_in_high: float | None = None
    shown_in_high: float | None = None
    errors_in_moderate: float | None = None
    shown_in_moderate: float | None = None


@dataclass(frozen=True)
class Decision:
    """What the gate decided about one training, and the differences that it saw."""

    seed: int
    arm: str
    budget: int
    promoted: bool
    reason: str = ""
    local_difference: float | None = None
    central_difference: float | None = None


@dataclass(frozen=True)
class Results:
    """One set's study."""

    study: Study
    rows: tuple[Outcome, ...]
    picks: tuple[Pick, ...] = ()
    patches: tuple[Patch, ...] = ()
    doubt: tuple[Doubt, ...] = ()
    gate: tuple[Decision, ...] = ()

    @cached_property
    def complete_seeds(self) -> tuple[int, ...]:
        """Seeds in which every arm has all its budgets; others are left out of every table.

        An arm that asks has the budgets above 0; what it is at 0 is the baseline's.
        """
        have = {(row.seed, row.arm, row.budget) for row in self.rows}
        unasked = {(row.seed, row.arm) for row in self.rows}
        return tuple(
            seed
            for seed in sorted(self.study.seeds)
            if all(
                (seed, arm, budget) in have
                for arm in self.study.asking
                for budget in self.study.budgets
                if budget
            )
            and all((seed, arm) in unasked for arm in self.study.arms if arm in UNASKED)
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Classes of cases, in order of appearance."""
        return tuple(dict.fromkeys(row.kind for row in self.rows if row.kind))

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures of the patches, in order of appearance."""
        return tuple(dict.fromkeys(patch.measure for patch in self.patches))


def read_results(results: Mapping[str, Any]) -> Results:
    """From the study's JSON.

    Raises:
        BadInputError: a part or a field is missing, or no seed is complete; names it.
    """
    if "study" not in results or not results.get("rows"):
        raise BadInputError("results hold no `study` or no `rows`; was anything trained?")
    read = Results(
        study=_rows([results["study"]], Study, "study")[0],
        rows=_rows(results["rows"], Outcome, "rows"),
        picks=_rows(results.get("picks", ()), Pick, "picks"),
        patches=_rows(results.get("patches", ()), Patch, "patches"),
        doubt=_rows(results.get("doubt", ()), Doubt, "doubt"),
        gate=_rows(results.get("gate", ()), Decision, "gate"),
    )
    if BASELINE not in read.study.arms:
        raise BadInputError(
            f"results of {read.study.set} lack the arm `{BASELINE}`, which all are measured by"
        )
    if not read.complete_seeds:
        raise BadInputError(
            f"no seed of {read.study.set} was finished with every arm; give the same command again to go on"
        )
    return read


def _rows(rows: Sequence[Mapping[str, Any]], kind: type[Kind], part: str) -> tuple[Kind, ...]:
    """Rows as values of a class; what the class does not know is left out."""
    names = [each.name for each in fields(kind)]  # pyright: ignore[reportArgumentType]
    found = []
    for number, row in enumerate(rows):
        known = {name: _frozen(row[name]) for name in names if name in row}
        try:
            found.append(kind(**known))
        except TypeError as error:
            raise BadInputError(f"row {number} of `{part}` cannot be used: {error}") from error
    return tuple(found)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
