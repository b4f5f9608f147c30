"""What the rows of the study add up to: Dice, differences, areas and gaps, each with one interval.

An interval is over seeds and patients at once (`metrics.crossed`), and paired: two arms are compared on the same cases
after trainings of the same seeds. Pooled over domains, every held-out local case counts the same, and patients are
drawn domain by domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

import numpy as np

from overread.domain import BadInputError
from overread.metrics.budget import area_under_budget_curve, share_of_gap
from overread.metrics.correlation import Interval, spearman_interval
from overread.metrics.crossed import crossed_interval
from overread.studies.simulation.statistics import TIE
from overread.studies.uga.rows import BASELINE, CEILING, UNASKED, Outcome, Pick, Results

POOLED = "pooled"
# Patches are many and of few cases.
SPEARMAN_RESAMPLES = 1000
# A gap between no labels and all labels below this is not worth asking about.
LEAST_GAP = 0.05

Value = Callable[[Outcome], float | None]


@dataclass(frozen=True)
class Contest:
    """One arm against another, by area under the budget curve: a domain of a seed is a round."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Cost:
    """What the labels of one arm at one budget were, means over seeds; None where it was not written down.

    Attributes:
        patches: number.
        mm2: area.
        tissue: share of all the tissue that could have been asked about; pooled, the mean over domains.
        foreground: share of the patches' pixels that are foreground.
    """

    patches: float
    mm2: float | None
    tissue: float | None
    foreground: float | None


class Findings:
    """Statistics of one set's study over its complete seeds.

    Attributes:
        results: what they are of.
        seeds: that they are over.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.study = results.study
        self.seeds = results.complete_seeds
        self._correlations: dict[tuple[str, str], tuple[np.ndarray, Interval | None]] = {}

    @property
    def places(self) -> tuple[str, ...]:
        """Local domains, and all of them pooled where there are several."""
        local = self.study.local
        return (*local, POOLED) if len(local) > 1 else local

    def domains_of(self, place: str) -> tuple[str, ...]:
        """The domains behind a place."""
        return self.study.local if place == POOLED else (place,)

    def dice(self, arm: str, budget: int, place: str, kind: str = "") -> Interval | None:
        """Mean Dice on the held-out cases of a place; None where there is none.

        Args:
            arm: at a budget that it does not have it is what it was without: the baseline, or itself.
            kind: only cases of this class.
        """
        return self._interval([self._table(arm, budget, place, lambda row: row.dice, kind)], place)

    def class_dice(self, name: str, arm: str, budget: int, place: str) -> Interval | None:
        """The same of one class of the label."""
        value = [self._table(arm, budget, place, lambda row: (row.dice_per_class or {}).get(name))]
        return self._interval(value, place)

    def false_mm2(self, arm: str, budget: int, place: str) -> Interval | None:
        """Mean area called a structure on the held-out cases that hold none; None where there is no such case."""
        table = self._table(arm, budget, place, lambda row: row.false_mm2 if row.dice is None else None)
        return self._interval([table], place)

    def difference(self, first: str, second: str, budget: int, place: str, kind: str = "") -> Interval | None:
        """Dice of the first arm minus that of the second at a budget, on cases of that class if one is given."""
        pair = [self._table(arm, budget, place, kind=kind) for arm in (first, second)]
        return self._interval(pair, place, lambda means: means[0] - means[1])

    def beside_baseline(self, arm: str, budget: int, place: str, kind: str = "") -> Interval | None:
        """Dice with the interval of its difference to the baseline's, for a plot in which that is a line.

        Its own interval says mostly that some cases are harder than others, which is so in all arms alike.
        """
        dice, change = (
            self.dice(arm, budget, place, kind),
            self.difference(arm, BASELINE, budget, place, kind),
        )
        if dice is None or change is None:
            return None
        low, high = (dice.estimate + end - change.estimate for end in (change.low, change.high))
        return replace(dice, low=low, high=high)

    def forgetting(self, arm: str, budget: int) -> Interval | None:
        """Dice on the central domain minus that without labels; below 0 something was forgotten."""
        return self.difference(arm, BASELINE, budget, self.study.central)

    def gap(self, place: str) -> Interval | None:
        """Dice with all labels minus that without."""
        if CEILING not in self.study.arms:
            return None
        return self.difference(CEILING, BASELINE, 0, place)

    def closed(self, arm: str, budget: int, place: str) -> Interval | None:
        """Share of the gap that the arm's labels close; None where the gap is not above `LEAST_GAP`."""
        gap = self.gap(place)
        if gap is None or gap.estimate <= LEAST_GAP:
            return None
        triple = [
            self._table(arm, budget, place),
            self._table(BASELINE, 0, place),
            self._table(CEILING, 0, place),
        ]
        return self._interval(
            triple, place, lambda means: np.array([share_of_gap(*each) for each in means.T])
        )

    def area(self, arm: str, place: str) -> Interval | None:
        """Area under Dice against patches a domain, from 0 to the last budget: a mean Dice."""
        return self._interval([self._areas(arm, place)], place)

    def area_difference(self, first: str, second: str, place: str) -> Interval | None:
        """The area of the first arm minus that of the second."""
        pair = [self._areas(arm, place) for arm in (first, second)]
        return self._interval(pair, place, lambda means: means[0] - means[1])

    @cached_property
    def contests(self) -> Mapping[tuple[str, str], Contest]:
        """Each arm against each other by area, round by round; differences up to `TIE` are ties.

        An arm of one budget counts with its Dice everywhere.
        """
        rounds = {
            arm: np.array([_row_means(self._areas(arm, domain)) for domain in self.study.local])
            for arm in self.study.arms
        }
        found = {}
        for first, second in permutations(self.study.arms, 2):
            ahead = rounds[first] - rounds[second]
            found[first, second] = Contest(
                int((ahead > TIE).sum()), int((np.abs(ahead) <= TIE).sum()), int((ahead < -TIE).sum())
            )
        return found

    def doubt_against_dice(self, measure: str, place: str) -> tuple[np.ndarray, Interval | None]:
        """Uncertainty and Dice `(patch, 2)` of the patches, and their rank correlation with its interval over cases.

        Patches without a Dice are left out; no correlation where one of both is constant.
        """
        if (measure, place) not in self._correlations:
            self._correlations[measure, place] = self._correlate(measure, place)
        return self._correlations[measure, place]

    def _correlate(self, measure: str, place: str) -> tuple[np.ndarray, Interval | None]:
        domains = self.domains_of(place)
        patches = [
            patch
            for patch in self.results.patches
            if patch.measure == measure
            and patch.seed in self.seeds
            and patch.domain in domains
            and patch.dice is not None
        ]
        pairs = np.array([(patch.uncertainty, patch.dice) for patch in patches], float).reshape(-1, 2)
        try:
            interval = spearman_interval(
                pairs[:, 0],
                pairs[:, 1],
                generator=np.random.default_rng(0),
                groups=np.array([f"{patch.domain} {patch.case}" for patch in patches]),
                resamples=SPEARMAN_RESAMPLES,
            )
        except BadInputError:
            return pairs, None
        return pairs, interval

    def cost(self, arm: str, budget: int, place: str) -> Cost:
        """What the labels up to a budget came to."""
        domains = self.domains_of(place)
        chosen = [self._asked(arm, budget, seed, domain) for seed in self.seeds for domain in domains]
        per_seed = 1 / max(len(self.seeds), 1)
        picks = [pick for each in chosen for pick in each]
        tissue = _total([pick.tissue_share for pick in picks])
        foreground = [pick.foreground_share for pick in picks if pick.foreground_share is not None]
        mm2 = _total([pick.mm2 for pick in picks])
        return Cost(
            len(picks) * per_seed,
            None if mm2 is None else mm2 * per_seed,
            None if tissue is None else tissue * per_seed / max(len(domains), 1),
            float(np.mean(foreground)) if foreground else None,
        )

    def _asked(self, arm: str, budget: int, seed: int, domain: str) -> list[Pick]:
        """The patches that a budget holds, be it written down with those of smaller budgets or without."""
        own = [
            pick
            for pick in self.results.picks
            if (pick.arm, pick.seed, pick.domain) == (arm, seed, domain) and pick.budget <= budget
        ]
        now = [pick for pick in own if pick.budget == budget]
        chosen = now if len(now) >= budget else own
        return list({(pick.case, pick.box): pick for pick in chosen}.values())

    def _areas(self, arm: str, place: str) -> np.ndarray:
        """Area of each case `(seed, case)`; NaN where a budget lacks the case."""
        budgets = sorted({0, *self.study.budgets})
        curves = np.stack([self._table(arm, budget, place) for budget in budgets])
        flat = curves.reshape(len(budgets), -1)
        areas = [area_under_budget_curve(budgets, column) for column in flat.T]
        return np.array(areas).reshape(curves.shape[1:])

    @cached_property
    def _rows(self) -> dict[tuple[str, str], dict[int, list[Outcome]]]:
        """By arm and domain, then by budget."""
        found: dict[tuple[str, str], dict[int, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
        for row in self.results.rows:
            if row.seed in self.seeds:
                found[row.arm, row.domain][row.budget].append(row)
        return found

    @cached_property
    def _cases(self) -> dict[str, tuple[str, ...]]:
        """Held-out cases by domain, of whatever seed."""
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.results.rows:
            found[row.domain].add(row.case)
        return {domain: tuple(sorted(cases)) for domain, cases in found.items()}

    def _table(
        self,
        arm: str,
        budget: int,
        place: str,
        value: Value = lambda row: row.dice,
        kind: str = "",
    ) -> np.ndarray:
        """A number of each held-out case `(seed, case)`; NaN where there is none."""
        columns = []
        for domain in self.domains_of(place):
            cases = {case: index for index, case in enumerate(self._cases.get(domain, ()))}
            table = np.full((len(self.seeds), len(cases)), np.nan)
            for row in self._at(arm, budget, domain):
                number = value(row)
                if number is not None and kind in ("", row.kind):
                    table[self.seeds.index(row.seed), cases[row.case]] = number
            columns.append(table)
        return np.concatenate(columns, axis=1) if columns else np.empty((len(self.seeds), 0))

    def _at(self, arm: str, budget: int, domain: str) -> Sequence[Outcome]:
        if arm in UNASKED:
            return next(iter(self._rows[arm, domain].values()), [])
        rows = self._rows[arm, domain].get(budget)
        return self._at(BASELINE, 0, domain) if rows is None and budget == 0 else rows or []

    def _interval(
        self,
        tables: Sequence[np.ndarray],
        place: str,
        statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[0],
    ) -> Interval | None:
        values = np.stack(tables)
        # An arm may lack a case that another has: nothing can be said of it.
        values[:, ~np.isfinite(values).all(axis=0)] = np.nan
        if not np.isfinite(values).any():
            return None
        cases = [(domain, case) for domain in self.domains_of(place) for case in self._cases.get(domain, ())]
        return crossed_interval(
            list(values),
            statistic,
            generator=np.random.default_rng(0),
            groups=np.array([self._owners[each] for each in cases]),
            strata=np.array([domain for domain, _ in cases]),
        )

    @cached_property
    def _owners(self) -> dict[tuple[str, str], str]:
        return {(row.domain, row.case): row.patient or row.case for row in self.results.rows}


def _total(numbers: Sequence[float | None]) -> float | None:
    told = [number for number in numbers if number is not None]
    return float(np.sum(told)) if told else None


def _row_means(table: np.ndarray) -> np.ndarray:
    """Mean of what is known of each row; NaN where nothing is."""
    known = np.isfinite(table)
    count = known.sum(axis=1)
    total = np.where(known, table, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(table), np.nan), where=count > 0)
