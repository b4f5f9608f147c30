"""Who teaches, who waits to be asked about, and who judges; patients are never divided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from overread.domain import BadInputError
from overread.studies.uga.sets import StudySet

# Of a domain's cases, so many judge.
CENTRAL_TEST, LOCAL_TEST = 1 / 3, 1 / 2


@dataclass(frozen=True)
class Division:
    """Ids of the cases by what they are for; no patient has cases that teach and others that judge.

    Attributes:
        train: central cases that the first model learns from, or is calibrated on.
        pool: by local domain, cases that may be asked about.
        test: by domain, central included, cases that only judge.
    """

    train: tuple[str, ...]
    pool: Mapping[str, tuple[str, ...]]
    test: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Division:
        """The inverse of `to_json`."""
        by_domain = {
            part: {name: tuple(ids) for name, ids in values[part].items()} for part in ("pool", "test")
        }
        return cls(tuple(values["train"]), **by_domain)


def divide(study_set: StudySet, seed: int, most: int) -> Division:
    """Draw patients at random to teach or to judge, domain by domain, the smallest first.

    Kinds of cases (such as slides without tumour) are spread over both sides.

    Args:
        seed: another one divides otherwise.
        most: cases of each group and domain at the most; others are left out.

    Raises:
        BadInputError: a domain has one patient alone.
    """
    rng = np.random.default_rng([seed, 6])
    of_domain: dict[str, list[str]] = {}
    for case in study_set.cases:
        of_domain.setdefault(case.domain, []).append(case.id)
    judges: dict[str, bool] = {}
    for domain in sorted(of_domain, key=lambda name: (len(of_domain[name]), name)):
        share = CENTRAL_TEST if domain == study_set.central else LOCAL_TEST
        _divide_domain(study_set, of_domain[domain], share, judges, rng)

    def some(domain: str, judging: bool) -> tuple[str, ...]:
        ids = [name for name in of_domain[domain] if judges[study_set.by_id[name].patient] == judging]
        if not ids:
            raise BadInputError(
                f"domain {domain} of {study_set.name} has no case to {'judge by' if judging else 'learn from'}: "
                "it needs two patients at least"
            )
        return tuple(sorted(ids[index] for index in rng.permutation(len(ids))[:most]))

    return Division(
        train=some(study_set.central, False),
        pool={domain: some(domain, False) for domain in study_set.local_domains},
        test={domain: some(domain, True) for domain in (study_set.central, *study_set.local_domains)},
    )


def _divide_domain(
    study_set: StudySet, ids: list[str], share: float, judges: dict[str, bool], rng: np.random.Generator
) -> None:
    """Decide for the patients of one domain that are not decided on yet."""
    patients: dict[str, list[str]] = {}
    for name in ids:
        patients.setdefault(study_set.by_id[name].patient, []).append(name)
    waiting = sorted(patient for patient in patients if patient not in judges)
    order = [waiting[index] for index in rng.permutation(len(waiting))]
    # By kind, so that each side gets its share of each.
    order.sort(key=lambda patient: study_set.by_id[patients[patient][0]].kind)
    had = sum(len(patients[patient]) for patient in patients if judges.get(patient))
    seen = sum(len(patients[patient]) for patient in patients if patient in judges)
    for patient in order:
        count = len(patients[patient])
        seen += count
        # Whoever would bring the judges above their share teaches.
        judges[patient] = had + count <= math.floor(share * seen + 1e-9)
        had += count if judges[patient] else 0
