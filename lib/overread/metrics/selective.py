"""Does doubt find the errors? What is left of them where the most doubtful are handed over to a person.

Sort by doubt, accept the share `coverage` with the least, hand over the rest. The *selective risk* is the mean risk
of what was accepted; the *generalised risk* is the risk accepted, divided by all: the share of undetected errors.
Units may be voxels (risk: wrong or not) or cases (risk: 1 - Dice). Where doubts tie, the order is unknown and the
expectation over all orders is taken. Everything is one sort, O(n log n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk against coverage, for coverage 1/n, 2/n ... 1.

    Attributes:
        coverage: share accepted, `(n)`.
        generalised_risk: accepted risk over the number of all units, `(n)`.
    """

    coverage: np.ndarray
    generalised_risk: np.ndarray

    @property
    def selective_risk(self) -> np.ndarray:
        """Mean risk among the accepted, `(n)`."""
        return self.generalised_risk / self.coverage

    @property
    def aurc(self) -> float:
        """Mean selective risk over all coverages (Geifman et al. 2019, arXiv:1805.08206); smaller is better.

        Gives errors among the few most certain units much weight (Traub et al. 2024).
        """
        return float(self.selective_risk.mean())

    @property
    def augrc(self) -> float:
        """Area under the generalised risk over coverage (Traub et al. 2024, arXiv:2407.01032); smaller is better.

        The average risk of undetected errors, by the trapezoid rule from (0, 0). For errors that are 0 or 1 with
        rate e it is (1 - AUROC) e (1 - e) + e² / 2: at best e² / 2, by chance e / 2.
        """
        return float((self.generalised_risk.sum() - self.generalised_risk[-1] / 2) / self.coverage.size)


def risk_coverage(doubt: np.ndarray, risk: np.ndarray) -> RiskCoverage:
    """The curve of one set of units.

    Args:
        doubt: one number a unit, any shape; the order alone matters.
        risk: what goes wrong where the unit is accepted, same shape: a truth value or a number of at least 0.
    """
    d, r = np.ravel(doubt), np.ravel(risk).astype(np.float64)
    if np.shape(doubt) != np.shape(risk) or d.size == 0:
        raise BadInputError(f"each unit needs a doubt and a risk, got {np.shape(doubt)} and {np.shape(risk)}")
    if not np.isfinite(d).all() or not np.isfinite(r).all() or r.min() < 0:
        raise BadInputError("doubt and risk must be finite, risk at least 0")
    order = np.argsort(d, kind="stable")
    ranks = np.arange(1, d.size + 1)
    # At the end of each run of equal doubts the accepted risk is known; within, the expectation is a straight line.
    ends = np.append(np.flatnonzero(np.diff(d[order])) + 1, d.size)
    accepted = np.cumsum(r[order])[ends - 1]
    expected = np.interp(ranks, np.append(0, ends), np.append(0.0, accepted))
    return RiskCoverage(ranks / d.size, expected / d.size)


def aurc(doubt: np.ndarray, risk: np.ndarray) -> float:
    """Area under the risk-coverage curve; see `RiskCoverage.aurc`."""
    return risk_coverage(doubt, risk).aurc


def augrc(doubt: np.ndarray, risk: np.ndarray) -> float:
    """Area under the generalised risk-coverage curve; see `RiskCoverage.augrc`."""
    return risk_coverage(doubt, risk).augrc


def excess_aurc(doubt: np.ndarray, risk: np.ndarray) -> float:
    """How much above the AURC of the best possible order (E-AURC, Geifman et al. 2019); 0 is perfect."""
    return aurc(doubt, risk) - aurc(risk, risk)
