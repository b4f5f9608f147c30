"""How sure we may be of a mean over cases and repetitions, where every repetition was judged on the same cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from overread.domain import BadInputError
from overread.metrics.correlation import LEVEL, RESAMPLES, Interval


def crossed_interval(
    tables: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[0],
    *,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap that draws repetitions and cases anew, each with replacement and apart from the other.

    Owen 2007 (Ann. Appl. Stat. 1:386, the pigeonhole bootstrap): the interval holds for other trainings and for
    other cases, and is rather too wide than too narrow. Of one repetition it speaks of other cases only.

    Args:
        tables: one or more of `(repetition, case)`, all of one shape, so that what is drawn is drawn in all of them:
            a difference or a ratio of their means is paired. NaN where a case was not judged; in all or in none.
        statistic: from the tables' means `(table, resample)` to a number a resample; the first mean by default.
        generator: source of randomness.
        groups: `(case)`, whose each case is: cases of one patient are drawn together. By default each is its own.
        strata: `(case)`, such as the hospital: as many groups of each are drawn as there are, so that the interval
            holds for other patients of these hospitals, not for other hospitals. A group that lies in several is
            drawn among those that lie in the same.
        resamples, level: how many, and the share between the interval's ends.

    Returns:
        The statistic of all, with `groups` the number of groups of which a case was judged.

    Raises:
        BadInputError: tables of several shapes, nothing judged, cases without a group, or a statistic that is
            finite nowhere.
    """
    values = np.asarray(tables, float)
    if values.ndim != 3 or values.size == 0:
        raise BadInputError(f"expected tables of repetitions by cases of one shape, got {values.shape}")
    judged = np.isfinite(values).all(axis=0)
    if not judged.any() or (np.isfinite(values).any(axis=0) != judged).any():
        raise BadInputError(
            "a case must be judged in all tables or in none, and some case in some repetition"
        )
    filled = np.where(judged, values, 0.0)
    repetitions, cases = judged.shape
    owners = np.arange(cases) if groups is None else np.asarray(groups)
    places = np.zeros(cases) if strata is None else np.asarray(strata)
    if owners.shape != (cases,) or places.shape != (cases,):
        raise BadInputError(
            f"{cases} cases need a group and a stratum each, got {owners.shape}, {places.shape}"
        )
    names, owner = np.unique(owners, return_inverse=True)
    rows = _draws(repetitions, resamples, generator)
    columns = np.empty((resamples + 1, len(names)))
    for members in _by_stratum(owner, places):
        columns[:, members] = _draws(len(members), resamples, generator)
    columns = columns[:, owner]
    counts = np.einsum("rs,sc,rc->r", rows, judged.astype(float), columns, optimize=True)
    sums = np.einsum("rs,tsc,rc->tr", rows, filled, columns, optimize=True)
    # A resample may hold no case that one of its repetitions has judged.
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(statistic(means), float)
    draws = found[1:][np.isfinite(found[1:])]
    if not np.isfinite(found[0]) or draws.size == 0:
        raise BadInputError("the statistic is not finite; are all values the same?")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        float(found[0]), float(low), float(high), level, len(np.unique(owner[judged.any(axis=0)]))
    )


def _by_stratum(owner: np.ndarray, places: np.ndarray) -> list[list[int]]:
    """Numbers of the groups that lie in the same strata."""
    lies_in: dict[int, set[object]] = {}
    for group, place in zip(owner.tolist(), places.tolist(), strict=True):
        lies_in.setdefault(group, set()).add(place)
    found: dict[frozenset[object], list[int]] = {}
    for group, strata in sorted(lies_in.items()):
        found.setdefault(frozenset(strata), []).append(group)
    return list(found.values())


def _draws(units: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each unit is in each resample; the first row holds each once."""
    drawn = generator.multinomial(units, np.full(units, 1 / units), resamples)
    return np.vstack([np.ones(units), drawn])
