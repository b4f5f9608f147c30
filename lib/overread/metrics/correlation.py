"""Does the score of a case go with its quality? Rank correlation, and how sure we may be of any number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from overread.domain import BadInputError

RESAMPLES = 2000
LEVEL = 0.95
# Groups that are drawn at a time: 8 MB.
MOST_DRAWN = 2**20


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval.

    Attributes:
        estimate: on all values.
        low, high: percentiles of the resampled statistic.
        level: share of the resamples between them.
        groups: number of independent groups (patients) it rests on.
    """

    estimate: float
    low: float
    high: float
    level: float
    groups: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, in [-1, 1]; ties share their mean rank.

    Raises:
        BadInputError: a constant has no order, hence no correlation.
    """
    rho = _rank_correlation(first, second)
    if np.isnan(rho):
        raise BadInputError("a rank correlation needs two lists of equal length that are not constant")
    return rho


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap that resamples whole groups, because images of one patient are not independent.

    Args:
        values: `(n, ...)`, one row a unit.
        statistic: rows to a number. Resamples where it is not finite (such as a correlation of equal numbers) are
            left out.
        generator: source of randomness.
        groups: `(n)`, whom each row belongs to; None takes each row as a patient of its own.
        resamples, level: how many, and the share between `low` and `high`.

    Raises:
        BadInputError: no rows, or the statistic is not finite on all rows or on every resample.
    """
    rows, which = _grouped(values, groups, resamples, level)
    count = which.max() + 1
    members = [np.flatnonzero(which == g) for g in range(count)]
    draws = np.empty(resamples)
    for index in range(resamples):
        drawn = generator.integers(count, size=count)
        draws[index] = statistic(rows[np.concatenate([members[g] for g in drawn])])
    return _percentiles(float(statistic(rows)), draws, level, int(count))


def bootstrap_mean(
    values: np.ndarray,
    *,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """`bootstrap_interval` of the mean, from the same resamples and many times faster.

    Args:
        values: `(n)`; the rest as there.

    Raises:
        BadInputError: as there.
    """
    rows, which = _grouped(np.asarray(values, dtype=float), groups, resamples, level)
    sums, sizes = np.bincount(which, rows), np.bincount(which)
    draws = np.empty(resamples)
    at_once = max(1, MOST_DRAWN // len(sizes))
    for start in range(0, resamples, at_once):
        drawn = generator.integers(len(sizes), size=(min(at_once, resamples - start), len(sizes)))
        draws[start : start + at_once] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return _percentiles(float(rows.mean()), draws, level, len(sizes))


def _grouped(
    values: np.ndarray, groups: np.ndarray | None, resamples: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rows, and the number of each one's group."""
    rows = np.asarray(values)
    owner = np.arange(len(rows)) if groups is None else np.asarray(groups)
    if len(rows) == 0 or owner.shape != (len(rows),):
        raise BadInputError(
            f"a bootstrap needs rows and one group for each, got {len(rows)} and {owner.shape}"
        )
    if not 0 < level < 1 or resamples < 1:
        raise BadInputError(f"a bootstrap needs a level in (0, 1) and resamples, got {level} and {resamples}")
    return rows, np.unique(owner, return_inverse=True)[1]


def _percentiles(estimate: float, draws: np.ndarray, level: float, groups: int) -> Interval:
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(estimate) or draws.size == 0:
        raise BadInputError("the statistic is not finite; are all values the same?")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, groups)


def spearman_interval(
    first: np.ndarray,
    second: np.ndarray,
    *,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Spearman's rank correlation with its bootstrap interval over groups (patients)."""
    spearman(first, second)
    return bootstrap_interval(
        np.column_stack([first, second]),
        lambda pairs: _rank_correlation(pairs[:, 0], pairs[:, 1]),
        generator=generator,
        groups=groups,
        resamples=resamples,
        level=level,
    )


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """NaN where it is not defined."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0 or not np.isfinite([a, b]).all():
        return float("nan")
    a, b = rankdata(a) - (a.size + 1) / 2, rankdata(b) - (b.size + 1) / 2
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
