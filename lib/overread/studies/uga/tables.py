"""The study as tables: what labels are worth, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence

from overread.metrics.correlation import Interval
from overread.studies.sheets import Sheet, signed, verdict
from overread.studies.simulation.statistics import TIE
from overread.studies.uga.cells import (
    INTERVALS,
    NOTHING,
    all_places,
    place_name,
    seeds_in_words,
    share_of,
    text_of,
    unit_of,
)
from overread.studies.uga.doubt_tables import correlation_sheet, cost_sheet, doubt_sheet, gate_sheet
from overread.studies.uga.findings import LEAST_GAP, POOLED, Findings
from overread.studies.uga.goals import Judgement, judge_goals
from overread.studies.uga.rows import BASELINE, CEILING, CHANCE, UNASKED


def all_sheets(findings: Findings) -> list[Sheet]:
    """Every table that there are numbers for, the verdict first."""
    made = [
        goals_sheet(judge_goals(findings), findings.study.by_doubt),
        gap_sheet(findings),
        dice_sheet(findings),
        area_sheet(findings),
        *(rival_sheet(findings, rival) for rival in CHANCE if rival in findings.study.arms),
        closed_sheet(findings),
        forgetting_sheet(findings),
        contest_sheet(findings),
        kinds_sheet(findings),
        classes_sheet(findings),
        false_sheet(findings),
        cost_sheet(findings),
        correlation_sheet(findings),
        doubt_sheet(findings),
        gate_sheet(findings),
    ]
    return [sheet for sheet in made if sheet is not None and sheet.rows]


def goals_sheet(judgements: Sequence[Judgement], arms: Sequence[str]) -> Sheet:
    """A row a goal and place, a column an arm."""
    goals = list(dict.fromkeys(each.goal for each in judgements))
    places = sorted(
        dict.fromkeys((each.goal, each.place, each.budget) for each in judgements),
        key=lambda each: (goals.index(each[0]), each[2]),
    )
    by = {(each.goal, each.place, each.budget, each.arm): each for each in judgements}
    rows = [
        (f"{goal}, {budget} asked", place, *(_judged(by[goal, place, budget, arm]) for arm in arms))
        for goal, place, budget in places
    ]
    note = (
        "`open`: the interval does not tell, or there was nothing to measure. Differences in Dice; a gap is what all "
        f"labels are ahead of none, and counts from {LEAST_GAP} Dice on. {INTERVALS}"
    )
    return Sheet("Goals", ("goal", "where", *arms), tuple(rows), note)


def gap_sheet(findings: Findings) -> Sheet:
    """What labels, and what costs none, are worth at most."""
    study = findings.study
    free = [arm for arm in study.arms if arm in UNASKED and arm != BASELINE]
    rows = []
    for place in all_places(findings):
        without = findings.dice(BASELINE, 0, place)
        if without is None:
            continue
        rows.append(
            (place_name(findings, place), str(without), *(_change(findings, arm, place) for arm in free))
        )
    return Sheet(
        "Without a label, and what others are ahead of that",
        ("held-out cases of", "no labels", *free),
        tuple(rows),
        f"Dice, and differences. {INTERVALS}",
    )


def dice_sheet(findings: Findings) -> Sheet:
    """Dice by arm, budget and place."""
    places = all_places(findings)
    rows = []
    for arm in findings.study.arms:
        for budget in _budgets(findings, arm):
            cells = [text_of(findings.dice(arm, budget or 0, place)) for place in places]
            rows.append((arm, NOTHING if budget is None else str(budget), *cells))
    heads = tuple(place_name(findings, place) for place in places)
    return Sheet(
        f"Dice on held-out cases, mean over {seeds_in_words(findings)}",
        ("arm", "asked a domain", *heads),
        tuple(rows),
        INTERVALS,
    )


def area_sheet(findings: Findings) -> Sheet:
    """Area under the budget curve."""
    places = findings.places
    rows = [(arm, *(text_of(findings.area(arm, place)) for place in places)) for arm in findings.study.asking]
    return Sheet(
        "Area under Dice against what is asked (AUBC)",
        ("arm", *places),
        tuple(rows),
        f"Divided by the range of budgets: the mean Dice on the way from nothing asked to the last budget. {INTERVALS}",
    )


def rival_sheet(findings: Findings, rival: str) -> Sheet:
    """Every arm that asks minus one that asks by chance."""
    places = findings.places
    rows = []
    for arm in findings.study.asking:
        if arm == rival:
            continue
        for budget in (budget for budget in findings.study.budgets if budget):
            found = [findings.difference(arm, rival, budget, place) for place in places]
            rows.append((arm, str(budget), *(_compared(each, findings) for each in found)))
        areas = [findings.area_difference(arm, rival, place) for place in places]
        rows.append((arm, "area", *(_compared(each, findings) for each in areas)))
    return Sheet(f"Ahead of {rival}, in Dice", ("arm", "asked a domain", *places), tuple(rows), INTERVALS)


def closed_sheet(findings: Findings) -> Sheet | None:
    """Share of the gap that is closed, where there is one."""
    places = [place for place in findings.places if findings.closed(BASELINE, 0, place) is not None]
    rows = []
    for arm in (arm for arm in findings.study.arms if arm not in (BASELINE, CEILING)):
        for budget in _budgets(findings, arm):
            found = [findings.closed(arm, budget or 0, place) for place in places]
            rows.append((arm, NOTHING if budget is None else str(budget), *map(share_of, found)))
    if not places:
        return None
    return Sheet(
        "Share of the gap between no labels and all labels that is closed",
        ("arm", "asked a domain", *places),
        tuple(rows),
        f"Where all labels are more than {LEAST_GAP} Dice ahead. {INTERVALS}",
    )


def forgetting_sheet(findings: Findings) -> Sheet:
    """Change of central Dice."""
    rows = []
    for arm in (arm for arm in findings.study.arms if arm != BASELINE):
        for budget in _budgets(findings, arm):
            change = findings.forgetting(arm, budget or 0)
            if change is not None:
                rows.append((arm, NOTHING if budget is None else str(budget), signed(change)))
    return Sheet(
        f"Forgetting: Dice on held-out cases of {findings.study.central}, against no labels",
        ("arm", "asked a domain", "change"),
        tuple(rows),
        INTERVALS,
    )


def contest_sheet(findings: Findings) -> Sheet:
    """Wins, ties and losses, the arm with the most wins over losses first."""
    contests = findings.contests
    balance = {
        arm: sum(contest.wins - contest.losses for (first, _), contest in contests.items() if first == arm)
        for arm in findings.study.arms
    }
    arms = sorted(findings.study.arms, key=lambda arm: -balance[arm])
    rows = []
    for first in arms:
        cells = [NOTHING if first == second else _contest(findings, first, second) for second in arms]
        rows.append((first, *cells, f"{balance[first]:+d}"))
    return Sheet(
        "Wins / ties / losses of the row against the column",
        ("", *arms, "wins - losses"),
        tuple(rows),
        "A round is a local domain of a seed, by area under the budget curve; arms that ask for nothing count with "
        f"their Dice. Up to {TIE} is a tie.",
    )


def kinds_sheet(findings: Findings) -> Sheet | None:
    """Dice by class of case at the last budget."""
    kinds = findings.results.kinds
    last = max(findings.study.budgets)
    rows = []
    for arm in findings.study.arms:
        found = [findings.dice(arm, last, POOLED, kind) for kind in kinds]
        rows.append((arm, *map(text_of, found)))
    # A negative slide has no Dice; see the false area.
    shown = [i for i in range(len(kinds)) if any(row[i + 1] != NOTHING for row in rows)]
    if not shown:
        return None
    return Sheet(
        f"Dice by class of case, local domains, {last} asked in each",
        ("arm", *(kinds[i] for i in shown)),
        tuple((row[0], *(row[i + 1] for i in shown)) for row in rows),
        INTERVALS,
    )


def classes_sheet(findings: Findings) -> Sheet | None:
    """Dice by class of the label at the last budget, where there are several."""
    names = list(dict.fromkeys(name for row in findings.results.rows for name in (row.dice_per_class or {})))
    if len(names) < 2:
        return None
    last = max(findings.study.budgets)
    rows = [
        (arm, *(text_of(findings.class_dice(name, arm, last, POOLED)) for name in names))
        for arm in findings.study.arms
    ]
    title = f"Dice by class of the label, local domains, {last} asked in each"
    return Sheet(title, ("arm", *names), tuple(rows), INTERVALS)


def false_sheet(findings: Findings) -> Sheet | None:
    """What was called a structure where there is none."""
    places = [place for place in all_places(findings) if findings.false_mm2(BASELINE, 0, place) is not None]
    if not places:
        return None
    rows = []
    for arm in findings.study.arms:
        for budget in _budgets(findings, arm):
            cells = [text_of(findings.false_mm2(arm, budget or 0, place)) for place in places]
            rows.append((arm, NOTHING if budget is None else str(budget), *cells))
    return Sheet(
        f"{unit_of(findings)} called a structure on cases that hold none, mean a case",
        ("arm", "asked a domain", *(place_name(findings, place) for place in places)),
        tuple(rows),
        INTERVALS,
    )


def _judged(judgement: Judgement) -> str:
    if judgement.measured is None:
        return f"{judgement.verdict}: {judgement.why}"
    measured = judgement.measured
    text = share_of(measured) if judgement.goal.startswith("closes") else signed(measured)
    return f"{judgement.verdict}: {text}" + (f", {judgement.why}" if judgement.why else "")


def _budgets(findings: Findings, arm: str) -> list[int | None]:
    """Budgets above 0 of an arm that asks; None once for one that does not."""
    return [None] if arm in UNASKED else [budget for budget in findings.study.budgets if budget]


def _change(findings: Findings, arm: str, place: str) -> str:
    change = findings.difference(arm, BASELINE, 0, place)
    return NOTHING if change is None else signed(change)


def _compared(difference: Interval | None, findings: Findings) -> str:
    if difference is None:
        return NOTHING
    return f"{signed(difference)} {verdict(difference, len(findings.seeds))}"


def _contest(findings: Findings, first: str, second: str) -> str:
    contest = findings.contests[first, second]
    return f"{contest.wins} / {contest.ties} / {contest.losses}"
