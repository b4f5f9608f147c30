"""What a change of the protocol does: two studies of one set, paired by seed and held-out case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from overread.domain import BadInputError
from overread.metrics.correlation import Interval
from overread.studies.sheets import Sheet, signed, verdict
from overread.studies.uga.cells import INTERVALS, NOTHING, all_places
from overread.studies.uga.findings import POOLED, Findings
from overread.studies.uga.rows import BASELINE, UNASKED, Outcome, Results, read_results

# What two studies must have in common to be compared case by case.
ALIKE = ("set", "central", "domains")
BEFORE, AFTER = "before", "after"
ONE_SEED = " One seed shows nothing."
# What a row of both tables is of, and what the first tells of each place.
_HEADS = ("arm", "asked a domain", "seeds")
_WHAT = ("before", "after", "gained")


@dataclass(frozen=True)
class Change:
    """What became of one arm.

    Attributes:
        arm: of both studies.
        budget: asked in a domain; 0 for an arm that asks for nothing, None for the area under the budgets' curve.
        place: a domain, or all local ones pooled.
        before, after: Dice with its interval.
        difference: after minus before; paired.
        seeds: that it is over.
        is_central: whether the place is where the model was first trained.
    """

    arm: str
    budget: int | None
    place: str
    before: Interval
    after: Interval
    difference: Interval
    seeds: tuple[int, ...]
    is_central: bool = False


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every arm that both studies have, at every budget that both have, in every place.

    Args:
        before, after: the study's JSON. A seed counts where both finished the arm in it.

    Raises:
        BadInputError: they are of different sets or places, or have no arm, seed and case in common.
    """
    first, second = (_told(results, name) for results, name in ((before, BEFORE), (after, AFTER)))
    for fact in ALIKE:
        ours, theirs = (getattr(results.study, fact) for results in (first, second))
        if ours != theirs:
            raise BadInputError(
                f"two results cannot be compared case by case: {fact} is {ours!r} and {theirs!r}"
            )
    found = [
        change
        for arm in first.study.arms
        if arm in second.study.arms
        for change in _of_arm(arm, first, second)
    ]
    if not found:
        raise BadInputError(
            f"two results of {first.study.set} have no arm with a seed, budget and case in common: "
            f"{', '.join(first.study.arms)} of the seeds {first.study.seeds}, and {', '.join(second.study.arms)} of "
            f"{second.study.seeds}"
        )
    return found


def change_sheets(found: Sequence[Change]) -> list[Sheet]:
    """A table of what became of all local cases and of the central ones, and one place by place."""
    names = {
        change.place: f"{change.place} (central)" if change.is_central else change.place for change in found
    }
    # All local cases, and the central ones, which come last.
    wide = list(dict.fromkeys([POOLED if POOLED in names else next(iter(names)), list(names)[-1]]))
    note = INTERVALS + (ONE_SEED if any(len(change.seeds) < 2 for change in found) else "")
    return [
        Sheet(
            "Dice before and after the change",
            (*_HEADS, *(f"{names[place]}: {what}" for place in wide for what in _WHAT)),
            tuple(_rows(found, wide, _in_full)),
            note,
        ),
        Sheet(
            "What the change gains, place by place",
            (*_HEADS, *names.values()),
            tuple(_rows(found, list(names), lambda change: (_gained(change),))),
            note,
        ),
    ]


def _in_full(change: Change) -> tuple[str, ...]:
    return (
        f"{change.before.estimate:.3f}",
        f"{change.after.estimate:.3f}",
        _gained(change),
    )


def _gained(change: Change) -> str:
    words = f" {verdict(change.difference, len(change.seeds))}" if len(change.seeds) > 1 else ""
    return f"{signed(change.difference)}{words}"


def _rows(
    found: Sequence[Change], places: Sequence[str], cells: Callable[[Change], tuple[str, ...]]
) -> Iterator[tuple[str, ...]]:
    by = {(change.arm, change.budget, change.place): change for change in found}
    width = len(cells(found[0]))
    for arm, budget in dict.fromkeys((change.arm, change.budget) for change in found):
        here = [by.get((arm, budget, place)) for place in places]
        seeds = next(change.seeds for change in here if change is not None)
        asked = {0: NOTHING, None: "area"}.get(budget, str(budget))
        row = [cell for change in here for cell in (cells(change) if change else (NOTHING,) * width)]
        yield (arm, asked, _in_ranges(seeds), *row)


def _in_ranges(seeds: Sequence[int]) -> str:
    """0, 1, 2, 5 as `0-2, 5`."""
    parts: list[tuple[int, int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], seed)
        else:
            parts.append((seed, seed))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _told(results: Mapping[str, Any], what: str) -> Results:
    try:
        return read_results(results)
    except BadInputError as error:
        raise BadInputError(f"{what} the change: {error}") from error


def _of_arm(arm: str, first: Results, second: Results) -> Iterator[Change]:
    asks = arm not in UNASKED
    shared = set(first.study.budgets) & set(second.study.budgets)
    budgets = sorted({0, *shared}) if asks else [0]
    rows = (
        *_as(BEFORE, first, arm, budgets),
        *_as(AFTER, second, arm, budgets),
    )
    have = {(row.seed, row.arm, row.budget) for row in rows}
    seeds = tuple(
        seed
        for seed in sorted({*first.study.seeds} & {*second.study.seeds})
        if all((seed, name, budget) in have for name in (BEFORE, AFTER) for budget in budgets)
    )
    if not seeds or (asks and len(budgets) < 2):
        return
    study = replace(first.study, arms=(BEFORE, AFTER), budgets=tuple(budgets), seeds=seeds, command="")
    findings = Findings(Results(study, tuple(row for row in rows if row.seed in seeds)))
    places = all_places(findings)
    for budget in budgets[1:] if asks else budgets:
        for place in places:
            pair = (findings.dice(BEFORE, budget, place), findings.dice(AFTER, budget, place))
            difference = findings.difference(AFTER, BEFORE, budget, place)
            yield from _known(arm, budget, place, pair, difference, seeds, place == study.central)
    if asks:
        for place in findings.places:
            pair = (findings.area(BEFORE, place), findings.area(AFTER, place))
            difference = findings.area_difference(AFTER, BEFORE, place)
            yield from _known(arm, None, place, pair, difference, seeds, False)


def _known(
    arm: str,
    budget: int | None,
    place: str,
    pair: tuple[Interval | None, Interval | None],
    difference: Interval | None,
    seeds: tuple[int, ...],
    is_central: bool,
) -> Iterator[Change]:
    before, after = pair
    if before is not None and after is not None and difference is not None:
        yield Change(arm, budget, place, before, after, difference, seeds, is_central)


def _as(name: str, results: Results, arm: str, budgets: Sequence[int]) -> Iterator[Outcome]:
    """An arm's rows under another name; nothing asked is what its own first model says."""
    for row in results.rows:
        if arm in UNASKED:
            if row.arm == arm:
                yield replace(row, arm=name, budget=0)
        elif row.arm == arm and row.budget in budgets:
            yield replace(row, arm=name)
        elif row.arm == BASELINE:
            yield replace(row, arm=name, budget=0)
