"""The gate: a challenger takes the champion's place only if it is better here and no worse there.

Both are asked about cases that they have not learnt from: local ones, which clinicians of this place accepted, and
central ones, which were held out when the recipe was first trained. The challenger is promoted where local Dice rises
and central Dice does not fall by more than a stated margin, by the lower bound of a paired bootstrap over patients.
Where local cases come from several centres, none of them may pay for the others: a centre that surely loses refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from overread.domain import BadInputError
from overread.ensemble.storage import read_description
from overread.imaging.dataset import Case
from overread.learning.champions import HASH_LENGTH
from overread.learning.comparison import Comparison, compare, compare_case
from overread.learning.judging import overlaps

if TYPE_CHECKING:
    from overread.learning.training_set import TrainingSet

PROTECTED = "protected control cases"
CROSS_VALIDATION = "cross-validation"


@dataclass(frozen=True)
class GateOptions:
    """What a challenger has to show.

    Attributes:
        central_margin: the most that central Dice may fall, by the lower bound of its interval.
        local_margin: the most that local Dice may fall by the lower bound, while its mean has to rise.
        centre_margin: the most that Dice of one centre's local cases may fall, by the upper bound of its interval.
        confidence: share of the bootstrap's draws in an interval; 0.9 leaves 5 % below the lower bound.
        fewest_protected: patients with protected control cases from which on only those judge the local gain.
        fewest_cases: patients with accepted cases below which nothing is promoted, and below which a centre alone
            refuses nothing.
        draws: of the bootstrap.
        central: what to do where no central case can judge: `required` refuses the promotion, `unjudged` lets the
            local gain decide alone.
        seed: of the bootstrap.
    """

    central_margin: float = 0.02
    local_margin: float = 0.005
    centre_margin: float = 0.02
    confidence: float = 0.9
    fewest_protected: int = 5
    fewest_cases: int = 3
    draws: int = 2000
    central: Literal["required", "unjudged"] = "required"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("central_margin", "local_margin", "centre_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected a Dice between 0 and 1")
        if not 0 < self.confidence < 1:
            raise BadInputError(f"confidence is {self.confidence}, expected between 0 and 1")
        for name in ("fewest_protected", "fewest_cases", "draws"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.central not in ("required", "unjudged"):
            raise BadInputError(f"central is {self.central!r}, expected required or unjudged")


@dataclass(frozen=True)
class Decision:
    """What the gate decided.

    Attributes:
        champion, challenger: who was compared, by the start of their identities.
        promoted: whether the challenger takes the champion's place.
        reason: in words, with the numbers.
        judged_on: what judged the local gain: `protected control cases`, `cross-validation`, or empty where nothing
            could be judged.
        central, local: the tables; None where there was no case.
        centres: the local cases of each centre that is known, by its name.
    """

    champion: str
    challenger: str
    promoted: bool
    reason: str
    judged_on: str
    central: Comparison | None
    local: Comparison | None
    centres: Mapping[str, Comparison] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with all tables."""
        return {
            "champion": self.champion,
            "challenger": self.challenger,
            "promoted": self.promoted,
            "reason": self.reason,
            "judged_on": self.judged_on,
            "central": self.central.to_json() if self.central else None,
            "local": self.local.to_json() if self.local else None,
            "centres": {name: table.to_json() for name, table in self.centres.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Decision:
        """The inverse of `to_json`; further keys are ignored, `centres` may be absent."""
        central, local = (
            Comparison.from_json(values[name]) if values[name] else None for name in ("central", "local")
        )
        words = {name: values[name] for name in ("champion", "challenger", "promoted", "reason", "judged_on")}
        centres = {name: Comparison.from_json(table) for name, table in values.get("centres", {}).items()}
        return cls(**words, central=central, local=local, centres=centres)


def judge(
    champion: Path,
    challenger: Path,
    cases: TrainingSet,
    options: GateOptions = GateOptions(),
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
    *,
    work: Path | None = None,
    stop: Event | None = None,
) -> Decision:
    """Compare two ensembles on cases that neither has learnt from.

    Every case is judged by the members that have not learnt from it, the same ones on either side. Dice is taken per
    case and class; voxels with IGNORE do not count.

    Args:
        champion, challenger: ensemble folders with the same members and classes.
        cases: what the challenger was trained on, and who has not seen what.
        progress: told the share done, in (0, 1].
        work: keeps what each ensemble said of each case, so that an interrupted comparison goes on.
        stop: set by another thread to end before the next case.

    Raises:
        BadInputError: the two cannot be compared, or a case cannot be read.
        StoppedError: `stop` was set (see `ensemble.training`).
    """
    old, new = read_description(champion), read_description(challenger)
    _check_comparable(old, new)
    names = old["identity"][:HASH_LENGTH], new["identity"][:HASH_LENGTH]
    central = [case for case in cases.dataset.cases if case.id in cases.central and cases.unseen.get(case.id)]
    local, judged_on = _local_cases(cases, options)
    if reason := _no_judgement(cases, central, local, options):
        return Decision(*names, False, reason, "", None, None)

    asked = [(case, cases.unseen[case.id]) for case in (*central, *local)]
    halves = [
        overlaps(folder, asked, device, _half(progress, index), work=work, stop=stop)
        for index, folder in enumerate((champion, challenger))
    ]

    def table(chosen: Sequence[Case]) -> Comparison | None:
        rows = [
            compare_case(
                case.id,
                cases.patients[case.id],
                cases.unseen[case.id],
                old["classes"][1:],
                halves[0][case.id],
                halves[1][case.id],
            )
            for case in chosen
        ]
        known = [row for row in rows if row is not None]
        generator = np.random.default_rng(options.seed)
        return (
            compare(known, confidence=options.confidence, draws=options.draws, generator=generator)
            if known
            else None
        )

    here, there = table(local), table(central)
    centres = {}
    for name in sorted({cases.centres[case.id] for case in local if case.id in cases.centres}):
        found = table([case for case in local if cases.centres.get(case.id) == name])
        if found is not None:
            centres[name] = found
    promoted, reason = decide(here, there, judged_on, _protected_patients(cases), options, centres)
    return Decision(*names, promoted, reason, judged_on, there, here, centres)


def decide(
    local: Comparison | None,
    central: Comparison | None,
    judged_on: str,
    protected_patients: int,
    options: GateOptions,
    centres: Mapping[str, Comparison] = MappingProxyType({}),
) -> tuple[bool, str]:
    """Whether a challenger with these tables is promoted, and why in words.

    Args:
        judged_on: see `Decision`.
        protected_patients: with protected local cases, for the words.
        centres: local cases by centre.
    """
    against = []
    if local is None:
        against.append("no accepted case holds a class to judge by")
    elif local.difference <= 0:
        against.append("local Dice does not rise")
    elif local.low <= -options.local_margin:
        against.append(f"local Dice may fall by more than {options.local_margin:g}")
    if central is None and options.central == "required":
        against.append("no central case holds a class to judge by")
    elif central is not None and central.low <= -options.central_margin:
        against.append(f"central Dice may fall by more than the margin of {options.central_margin:g}")
    for name, table in centres.items():
        if table.patients >= options.fewest_cases and table.high < -options.centre_margin:
            against.append(f"Dice of centre {name} falls by more than {options.centre_margin:g}")
    words = []
    if local is not None:
        interval = f"{options.confidence * 100:g} % "
        how = judged_on
        if judged_on == CROSS_VALIDATION:
            how += f" because only {protected_patients} of {options.fewest_protected} protected control cases exist yet"
        words.append(
            f"local Dice {local.in_words(interval=interval, more=f'{_patients(local.patients)}, {how}')}"
        )
    if central is not None:
        words.append(
            f"central {central.in_words(more=_patients(central.patients))}, margin {options.central_margin:g}"
        )
    else:
        words.append("central Dice not judged: no central case is left that the members have not learnt from")
    words += [
        f"centre {name} {table.in_words(more=_patients(table.patients))}" for name, table in centres.items()
    ]
    verdict = f"not promoted because {' and '.join(against)}" if against else "promoted"
    return not against, f"{verdict}: {'; '.join(words)}"


def too_few(cases: TrainingSet, options: GateOptions) -> str:
    """Why these cases are not worth a training, in words; empty where they are."""
    patients = {cases.patients[case] for case in cases.local}
    if (missing := options.fewest_cases - len(patients)) > 0:
        return (
            f"there are accepted labels of {_patients(len(patients))}, the gate needs {options.fewest_cases}: "
            f"{missing} more"
        )
    if not cases.local - cases.protected:
        return (
            f"all {len(cases.local)} accepted labels belong to the control arm, which judges and is never trained on; "
            "label cases that the strategy picks"
        )
    return ""


def _no_judgement(
    cases: TrainingSet, central: Sequence[Case], local: Sequence[Case], options: GateOptions
) -> str:
    """Why nothing can be compared; empty where it can."""
    if reason := too_few(cases, options):
        return f"not promoted: {reason}"
    if not central and options.central == "required":
        return (
            "not promoted: no central case is left that the members have not learnt from, so nobody can tell whether "
            "central Dice fell; train the recipe with cases held out, or accept that with central=unjudged"
        )
    if not local:
        return "not promoted: every accepted case was learnt from, and none is left to judge by"
    return ""


def _local_cases(cases: TrainingSet, options: GateOptions) -> tuple[list[Case], str]:
    """Protected cases where there are enough of them, else every accepted one that some member has not seen."""
    enough = _protected_patients(cases) >= options.fewest_protected
    chosen = cases.local & cases.protected if enough else cases.local
    found = [case for case in cases.dataset.cases if case.id in chosen and cases.unseen.get(case.id)]
    return found, PROTECTED if enough else CROSS_VALIDATION


def _protected_patients(cases: TrainingSet) -> int:
    return len({cases.patients[case] for case in cases.local & cases.protected})


def _check_comparable(old: dict[str, Any], new: dict[str, Any]) -> None:
    for what in ("classes", "channels"):
        if list(old[what]) != list(new[what]):
            raise BadInputError(
                f"the challenger has {what} {', '.join(new[what])}, the champion {', '.join(old[what])}: "
                "they cannot be compared"
            )
    if len(old["members"]) != len(new["members"]):
        raise BadInputError(
            f"the challenger has {len(new['members'])} members, the champion {len(old['members'])}: "
            "they cannot be compared member by member"
        )


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"


def _half(progress: Callable[[float], None] | None, index: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress((index + share) / 2)
