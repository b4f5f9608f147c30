"""What was wanted of asking by doubt, and whether it came out."""

from __future__ import annotations

from dataclasses import dataclass

from overread.metrics.correlation import Interval
from overread.studies.uga.findings import LEAST_GAP, Findings
from overread.studies.uga.rows import BASELINE, FOREGROUND_RANDOM, RANDOM

MET, MISSED, OPEN = "met", "missed", "open"
# At the last budget, of the gap between no labels and all labels.
WANTED_SHARE = 0.6
# At the first budget, in Dice.
WANTED_LEAD = 0.02
ALLOWED_LOSS = 0.01


@dataclass(frozen=True)
class Judgement:
    """One goal for one arm at one place.

    Attributes:
        goal, place, arm: which.
        measured: the number with its interval; None where it cannot be told.
        budget: patches a domain.
        verdict: `met`, `missed`; `open` where the interval does not tell, or nothing was measured.
        why: of a verdict that the number alone does not explain.
    """

    goal: str
    place: str
    arm: str
    budget: int
    measured: Interval | None
    verdict: str
    why: str = ""


def judge_goals(findings: Findings) -> list[Judgement]:
    """Every goal for every arm that asks by doubt, at every local domain and pooled."""
    budgets = [budget for budget in findings.study.budgets if budget]
    if not budgets:
        return []
    found = []
    for place in findings.places:
        for arm in findings.study.by_doubt:
            found.append(_gap_closed(findings, arm, budgets[-1], place))
            if RANDOM in findings.study.arms:
                found.append(_ahead(findings, arm, budgets[0], place))
            if FOREGROUND_RANDOM in findings.study.arms:
                found += [_not_behind(findings, arm, budget, place) for budget in budgets]
    for arm in findings.study.by_doubt:
        found += [_kept(findings, arm, budget) for budget in budgets]
    return found


def _gap_closed(findings: Findings, arm: str, budget: int, place: str) -> Judgement:
    goal = f"closes {WANTED_SHARE:.0%} of the gap"
    gap = findings.gap(place)
    if gap is None or gap.estimate <= LEAST_GAP:
        why = "all labels were not tried" if gap is None else f"the gap is {gap.estimate:.3f} Dice only"
        return Judgement(goal, place, arm, budget, None, OPEN, why)
    closed = findings.closed(arm, budget, place)
    if closed is None:
        return Judgement(goal, place, arm, budget, None, OPEN, "no case was judged with and without labels")
    verdict = MET if closed.estimate >= WANTED_SHARE else MISSED
    return Judgement(goal, place, arm, budget, closed, verdict)


def _ahead(findings: Findings, arm: str, budget: int, place: str) -> Judgement:
    goal = f"{WANTED_LEAD} Dice ahead of random"
    lead = findings.difference(arm, RANDOM, budget, place)
    if lead is None:
        return Judgement(goal, place, arm, budget, None, OPEN, "no case was judged with both")
    if lead.estimate < WANTED_LEAD:
        return Judgement(goal, place, arm, budget, lead, MISSED)
    if len(findings.seeds) < 2:
        return Judgement(goal, place, arm, budget, lead, OPEN, "one seed shows nothing")
    if lead.low <= 0:
        return Judgement(goal, place, arm, budget, lead, MISSED, "not outside the interval")
    return Judgement(goal, place, arm, budget, lead, MET)


def _not_behind(findings: Findings, arm: str, budget: int, place: str) -> Judgement:
    goal = "not behind foreground_random"
    lead = findings.difference(arm, FOREGROUND_RANDOM, budget, place)
    if lead is None:
        return Judgement(goal, place, arm, budget, None, OPEN, "no case was judged with both")
    if lead.high < 0 and len(findings.seeds) > 1:
        return Judgement(goal, place, arm, budget, lead, MISSED)
    if lead.estimate < 0:
        return Judgement(goal, place, arm, budget, lead, OPEN, "behind, within the interval")
    return Judgement(goal, place, arm, budget, lead, MET)


def _kept(findings: Findings, arm: str, budget: int) -> Judgement:
    goal = f"central Dice falls by {ALLOWED_LOSS} at most"
    central = findings.study.central
    change = findings.difference(arm, BASELINE, budget, central)
    if change is None:
        return Judgement(goal, central, arm, budget, None, OPEN, "no central case was held out")
    verdict = MET if change.estimate >= -ALLOWED_LOSS else MISSED
    return Judgement(goal, central, arm, budget, change, verdict)
