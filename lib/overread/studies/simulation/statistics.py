"""What the rounds of a simulation add up to: area under the curve, who beats whom, how many cases were enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from scipy.stats import t as student

from overread.domain import BadInputError
from overread.metrics.budget import area_under_budget_curve
from overread.metrics.correlation import LEVEL, Interval, bootstrap_mean

# A difference in the area under the curve below this is a tie: Dice is not told to more than three digits.
TIE = 0.001
# Arms that choose by chance; the first that took part is what the others are measured by.
CHANCE = ("random", "foreground_random")


@dataclass(frozen=True)
class Row:
    """One round of one strategy with one seed.

    Attributes:
        round: 0 is the starter, before anything was asked.
        cases: labelled cases that a training may learn from, start cases included; with patches, asked patches.
        labelled_mm3, foreground_mm3, foreground_voxels, minutes, scratch_minutes: of all labels asked so far, see
            `Cost`.
        test_dice: of the champion in service, mean over classes and test cases.
        class_dice: the same by class.
        case_dice: mean over classes of each test case.
        challenger_dice: of what this round trained, whether or not the gate let it pass; None in round 0.
        central_dice: of the champion in service on the protected cases.
        promoted, reason: what the gate decided and why; None in round 0.
        picks: cases asked in this round, in order, with the reason given to the reader.
        champion: name of the champion in service after the round.
        seconds: of one core, by stage.
    """

    seed: int
    strategy: str
    round: int
    cases: int
    labelled_mm3: float
    foreground_mm3: float
    foreground_voxels: int
    minutes: float
    scratch_minutes: float
    test_dice: float
    class_dice: dict[str, float]
    case_dice: dict[str, float]
    challenger_dice: float | None
    central_dice: float
    promoted: bool | None
    reason: str
    picks: dict[str, str]
    champion: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairwise:
    """Two strategies over the same seeds: area under the curve of `first` minus that of `second`."""

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    difference: Interval


@dataclass(frozen=True)
class Standing:
    """One strategy over all seeds; intervals are of the mean over seeds (Student's t).

    Attributes:
        aubc: area under Dice against cases, divided by the range of cases: the mean Dice on the way.
        aubc_minutes: the same against estimated minutes, up to what all strategies of the seed spent.
        last: Dice at the last budget.
        enough: cases at which the mean curve first reaches the Dice of the chance arm's last budget; None: never.
        enough_by_seed: the same seed by seed, against the chance arm of the seed.
        central_change: central Dice at the end minus at the start; below 0 is forgetting.
        minutes: estimated for all labels.
        promotions: share of the rounds whose challenger passed the gate.
    """

    strategy: str
    aubc: Interval
    aubc_minutes: Interval
    last: Interval
    enough: int | None
    enough_by_seed: tuple[int | None, ...]
    central_change: Interval
    minutes: Interval
    promotions: float


@dataclass(frozen=True)
class GateRecord:
    """What the gate decided against what the test cases, which it never sees, said of the same challengers.

    Counts of challengers; better: a higher test Dice than the champion that they challenged.
    """

    promoted_better: int
    promoted_not_better: int
    rejected_better: int
    rejected_not_better: int


@dataclass(frozen=True)
class Summary:
    """All that is printed.

    Attributes:
        seeds: that are complete for every strategy; others are left out.
        chance: the arm that `enough` is measured by, None where no arm chose by chance.
        target: its mean Dice at the last budget.
        gate: of all rounds; None where no challenger was judged.
    """

    seeds: tuple[int, ...]
    standings: tuple[Standing, ...]
    pairs: tuple[Pairwise, ...]
    chance: str | None
    target: float | None
    gate: GateRecord | None = None


def summarise(rows: Sequence[Row]) -> Summary:
    """Statistics over the seeds in which every strategy finished as many rounds as any did.

    Raises:
        BadInputError: no seed is complete.
    """
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    seeds = complete_seeds(rows)
    if not seeds:
        raise BadInputError("no seed was finished with every strategy; give the same command again to go on")
    curves = {name: [curve(rows, name, seed) for seed in seeds] for name in strategies}
    areas = {name: np.array([aubc(c, "cases") for c in curves[name]]) for name in strategies}
    shared = [min(curves[name][index][-1].minutes for name in strategies) for index in range(len(seeds))]
    chance = next((name for name in CHANCE if name in strategies), None)
    target = float(np.mean([c[-1].test_dice for c in curves[chance]])) if chance else None
    standings = []
    for name in strategies:
        own = curves[name]
        timed = [aubc(c, "minutes", up_to=most) for c, most in zip(own, shared, strict=True)]
        by_seed = tuple(
            first_reaching(
                [row.cases for row in c], [row.test_dice for row in c], curves[chance][i][-1].test_dice
            )
            if chance
            else None
            for i, c in enumerate(own)
        )
        mean = np.mean([[row.test_dice for row in c] for c in own], axis=0)
        decided = [row.promoted for c in own for row in c if row.promoted is not None]
        standings.append(
            Standing(
                name,
                mean_interval(areas[name]),
                mean_interval(np.array(timed)),
                mean_interval(np.array([c[-1].test_dice for c in own])),
                None if target is None else first_reaching([row.cases for row in own[0]], mean, target),
                by_seed,
                mean_interval(np.array([c[-1].central_dice - c[0].central_dice for c in own])),
                mean_interval(np.array([c[-1].minutes for c in own])),
                float(np.mean(decided)) if decided else 0.0,
            )
        )
    pairs = [compare(a, b, areas[a], areas[b]) for a, b in combinations(strategies, 2)]
    gate = gate_record([c for found in curves.values() for c in found])
    return Summary(seeds, tuple(standings), tuple(pairs), chance, target, gate)


def gate_record(curves: Sequence[Sequence[Row]]) -> GateRecord | None:
    """How often the gate was right, by the test cases; None where it never decided."""
    decided = Counter(
        (bool(after.promoted), after.challenger_dice > before.test_dice)
        for rows in curves
        for before, after in pairwise(rows)
        if after.promoted is not None and after.challenger_dice is not None
    )
    if not decided:
        return None
    return GateRecord(decided[True, True], decided[True, False], decided[False, True], decided[False, False])


def complete_seeds(rows: Sequence[Row]) -> tuple[int, ...]:
    """Seeds in which every strategy has all the rounds that any has."""
    strategies = {row.strategy for row in rows}
    rounds = {row.round for row in rows}
    have = {(row.seed, row.strategy, row.round) for row in rows}
    return tuple(
        seed
        for seed in sorted({row.seed for row in rows})
        if all((seed, name, number) in have for name in strategies for number in rounds)
    )


def curve(rows: Sequence[Row], strategy: str, seed: int) -> list[Row]:
    """The rounds of one strategy with one seed, in order."""
    return sorted((r for r in rows if r.strategy == strategy and r.seed == seed), key=lambda row: row.round)


def aubc(rounds: Sequence[Row], budget: str, up_to: float | None = None) -> float:
    """Area under test Dice against a budget, as `area_under_budget_curve` has it: a mean Dice.

    Args:
        budget: `cases` or `minutes`.
        up_to: where the range ends; the last round's budget by default.
    """
    return area_under_budget_curve(
        [getattr(row, budget) for row in rounds], [row.test_dice for row in rounds], up_to
    )


def first_reaching(budgets: Sequence[int], values: Sequence[float] | np.ndarray, target: float) -> int | None:
    """The smallest budget whose value is the target or more; None where it is never reached."""
    return next((b for b, value in zip(budgets, values, strict=True) if value >= target), None)


def compare(first: str, second: str, a: np.ndarray, b: np.ndarray) -> Pairwise:
    """Seed by seed, and the mean difference with a paired bootstrap over seeds."""
    difference = np.asarray(a) - np.asarray(b)
    return Pairwise(
        first,
        second,
        wins=int((difference > TIE).sum()),
        ties=int((np.abs(difference) <= TIE).sum()),
        losses=int((difference < -TIE).sum()),
        difference=bootstrap_mean(difference, generator=np.random.default_rng(0)),
    )


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean with Student's t interval, which stays honest for five seeds; of one value, the value alone."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, mean, mean, level, n)
    half = float(student.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, level, n)
