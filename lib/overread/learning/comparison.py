"""Two ensembles on the same cases: Dice before and after, and how sure the difference is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.metrics.correlation import bootstrap_mean


@dataclass(frozen=True)
class Overlap:
    """How many voxels of each foreground class a prediction and a label share.

    Attributes:
        both, predicted, labelled: voxels per foreground class; those with IGNORE in the label do not count.
    """

    both: tuple[int, ...]
    predicted: tuple[int, ...]
    labelled: tuple[int, ...]

    @classmethod
    def of(cls, predicted: np.ndarray, label: np.ndarray, classes: int) -> Overlap:
        """Count. Raises BadInputError where the shapes differ or the label holds an unknown class."""
        if predicted.shape != label.shape:
            raise BadInputError(f"the prediction is {predicted.shape}, the label {label.shape}")
        known = label != IGNORE
        p, t = predicted[known].astype(np.intp), label[known].astype(np.intp)
        if t.size and t.max() >= classes:
            raise BadInputError(f"the label holds class {t.max()}, expected 0..{classes - 1} or {IGNORE}")
        counts = np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)
        return cls(
            tuple(counts.diagonal()[1:].tolist()),
            tuple(counts.sum(axis=0)[1:].tolist()),
            tuple(counts.sum(axis=1)[1:].tolist()),
        )

    def dice(self) -> list[float | None]:
        """2 TP / (2 TP + FP + FN) per foreground class; None where neither holds the class."""
        sizes = [p + t for p, t in zip(self.predicted, self.labelled, strict=True)]
        return [2 * both / size if size else None for both, size in zip(self.both, sizes, strict=True)]


@dataclass(frozen=True)
class CaseComparison:
    """One case before and after.

    Attributes:
        case, patient: which.
        members: who spoke, by index; the same before and after.
        before, after: Dice by class. A class that nobody sees is left out; where the label lacks it and one side sees
            it all the same, that side has 0 and the other, rightly silent, 1.
    """

    case: str
    patient: str
    members: tuple[int, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def difference(self) -> float:
        """Mean over classes of after minus before."""
        return float(np.mean([self.after[name] - self.before[name] for name in self.before]))


@dataclass(frozen=True)
class ClassComparison:
    """One class over all cases that hold it: their number, and mean Dice before and after."""

    cases: int
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """All cases of one kind, before and after.

    Attributes:
        cases: those where there is anything to compare.
        patients: whom they belong to, in number.
        mean_before, mean_after: mean over cases of the mean over classes.
        difference: after minus before.
        low, high: interval of the difference, from a bootstrap that draws whole patients.
        confidence: share of the draws in the interval.
        per_class: by name.
    """

    cases: tuple[CaseComparison, ...]
    patients: int
    mean_before: float
    mean_after: float
    difference: float
    low: float
    high: float
    confidence: float
    per_class: Mapping[str, ClassComparison]

    def in_words(self, *, interval: str = "", more: str = "") -> str:
        """`0.712 → 0.764 (+0.052, 90 % interval +0.021 to +0.083; 12 patients)`.

        Args:
            interval: what stands before the word interval, such as `90 % `.
            more: what follows after a semicolon.
        """
        return (
            f"{self.mean_before:.3f} → {self.mean_after:.3f} ({signed(self.difference)}, "
            f"{interval}interval {signed(self.low)} to {signed(self.high)}{f'; {more}' if more else ''})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, a row per case and a row per class."""
        return {
            "patients": self.patients,
            "mean_before": self.mean_before,
            "mean_after": self.mean_after,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "confidence": self.confidence,
            "per_class": {
                name: {
                    "cases": row.cases,
                    "before": row.before,
                    "after": row.after,
                    "difference": row.after - row.before,
                }
                for name, row in self.per_class.items()
            },
            "cases": [
                {
                    "case": row.case,
                    "patient": row.patient,
                    "members": list(row.members),
                    "before": dict(row.before),
                    "after": dict(row.after),
                    "difference": row.difference,
                }
                for row in self.cases
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_json`."""
        numbers = ("patients", "mean_before", "mean_after", "difference", "low", "high", "confidence")
        return cls(
            cases=tuple(
                CaseComparison(
                    row["case"], row["patient"], tuple(row["members"]), row["before"], row["after"]
                )
                for row in values["cases"]
            ),
            per_class={
                name: ClassComparison(row["cases"], row["before"], row["after"])
                for name, row in values["per_class"].items()
            },
            **{name: values[name] for name in numbers},
        )


def compare_case(
    case: str,
    patient: str,
    members: Sequence[int],
    classes: Sequence[str],
    before: Overlap,
    after: Overlap,
) -> CaseComparison | None:
    """Dice by class of both sides; None where no class is in the label or in either prediction.

    Args:
        classes: names of the foreground classes.
    """
    firsts: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name, first, second in zip(classes, before.dice(), after.dice(), strict=True):
        if first is None and second is None:
            continue
        # Undefined on one side only: the label lacks the class, and that side was rightly silent.
        firsts[name] = 1.0 if first is None else first
        seconds[name] = 1.0 if second is None else second
    return CaseComparison(case, patient, tuple(members), firsts, seconds) if firsts else None


def compare(
    cases: Sequence[CaseComparison], *, confidence: float, draws: int, generator: np.random.Generator
) -> Comparison:
    """Put cases together, with a paired bootstrap over patients: both sides are drawn with the same cases.

    Raises BadInputError where there is no case.
    """
    patients = [case.patient for case in cases]
    # Sorted, so that the same cases give the same interval in whatever order they were judged.
    ordered = sorted(cases, key=lambda case: case.case)
    interval = bootstrap_mean(
        np.array([case.difference for case in ordered]),
        generator=generator,
        groups=np.array([case.patient for case in ordered]),
        resamples=draws,
        level=confidence,
    )
    return Comparison(
        cases=tuple(ordered),
        patients=len(set(patients)),
        mean_before=_mean_of_means([case.before for case in ordered]),
        mean_after=_mean_of_means([case.after for case in ordered]),
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        confidence=confidence,
        per_class=_per_class(ordered),
    )


def signed(number: float) -> str:
    """`+0.052`, `−0.003`, with a true minus; `0.000` without a sign."""
    text = f"{abs(number):.3f}"
    if float(text) == 0:
        return text
    return ("−" if number < 0 else "+") + text


def _mean_of_means(rows: Sequence[Mapping[str, float]]) -> float:
    return math.fsum(float(np.mean(list(row.values()))) for row in rows) / len(rows)


def _per_class(cases: Sequence[CaseComparison]) -> dict[str, ClassComparison]:
    names = list(dict.fromkeys(name for case in cases for name in case.before))
    rows = {}
    for name in names:
        holding = [case for case in cases if name in case.before]
        rows[name] = ClassComparison(
            len(holding),
            float(np.mean([case.before[name] for case in holding])),
            float(np.mean([case.after[name] for case in holding])),
        )
    return rows
