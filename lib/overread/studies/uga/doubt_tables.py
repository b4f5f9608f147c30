"""What was asked, and what doubt was worth, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from overread.studies.sheets import Sheet
from overread.studies.simulation.statistics import mean_interval
from overread.studies.uga.cells import (
    NOTHING,
    all_places,
    place_name,
    seeds_in_words,
    text_of,
    unit_of,
)
from overread.studies.uga.findings import Findings
from overread.studies.uga.rows import Doubt


def cost_sheet(findings: Findings) -> Sheet:
    """What the labels came to."""
    rows = []
    budgets = [budget for budget in findings.study.budgets if budget]
    for arm in findings.study.asking:
        for budget in budgets:
            for place in findings.places:
                cost = findings.cost(arm, budget, place)
                if cost.patches:
                    cells = (
                        f"{cost.patches:.1f}",
                        NOTHING if cost.mm2 is None else f"{cost.mm2:.3g}",
                        NOTHING if cost.tissue is None else f"{cost.tissue:.1%}",
                        NOTHING if cost.foreground is None else f"{cost.foreground:.1%}",
                    )
                    rows.append((arm, str(budget), place, *cells))
    return Sheet(
        f"Budget: what was labelled, mean over {seeds_in_words(findings)}",
        (
            "arm",
            "asked a domain",
            "where",
            findings.study.unit,
            unit_of(findings),
            "share of tissue",
            "foreground in it",
        ),
        tuple(rows),
        "Share of the tissue that could have been asked about; of volumes, of the cases. Pooled: sums over "
        "domains, of shares the mean.",
    )


def correlation_sheet(findings: Findings) -> Sheet | None:
    """Spearman of doubt and Dice, measure by measure."""
    places = all_places(findings)
    rows = []
    for measure in findings.results.measures:
        found = [findings.doubt_against_dice(measure, place) for place in places]
        rows.append((measure, *(f"{text_of(rho)}, {len(pairs)} patches" for pairs, rho in found)))
    return Sheet(
        "Doubt of a patch against its Dice before anything was asked (Spearman)",
        ("measure", *(place_name(findings, place) for place in places)),
        tuple(rows),
        "Below 0: the more doubt, the worse. In brackets: 95 % by a bootstrap over cases. Patches without structure "
        "in label and prediction have no Dice and are left out. Pooled, domains of unequal difficulty are mixed.",
    )


def doubt_sheet(findings: Findings) -> Sheet | None:
    """Uncertainty quality by arm, budget and domain."""
    found: dict[tuple[str, int, str], list[Doubt]] = {}
    for each in findings.results.doubt:
        if each.seed in findings.seeds:
            found.setdefault((each.arm, each.budget, each.domain), []).append(each)
    rows = [
        (
            arm,
            str(budget),
            place_name(findings, domain),
            _mean([each.error_share for each in of], "{:.2%}"),
            _mean([each.aurc for each in of], "{:.4f}"),
            _mean([each.augrc for each in of], "{:.4f}"),
            _mean([each.ece_before for each in of], "{:.4f}"),
            _mean([each.ece_after for each in of], "{:.4f}"),
            _band([each.errors_in_high for each in of], [each.shown_in_high for each in of]),
            _band([each.errors_in_moderate for each in of], [each.shown_in_moderate for each in of]),
        )
        for (arm, budget, domain), of in found.items()
    ]
    columns = ("arm", "asked a domain", "held-out cases of", "wrong pixels", "AURC", "AUGRC")
    columns += ("ECE, T = 1", "ECE, fitted T", "errors in `doubt: high`", "in high or moderate")
    return Sheet(
        f"What doubt is worth, mean over {seeds_in_words(findings)} [95 % of the mean, Student's t]",
        columns,
        tuple(rows),
        "Bands and temperature are fitted on central cases. `80 % in 5 %`: the band holds 80 % of all wrong pixels and "
        "covers 5 % of all.",
    )


def gate_sheet(findings: Findings) -> Sheet | None:
    """How often the gate would have let the training pass."""
    decided: dict[tuple[str, int], list[bool]] = {}
    for each in findings.results.gate:
        if each.seed in findings.seeds:
            decided.setdefault((each.arm, each.budget), []).append(each.promoted)
    rows = [(arm, str(budget), f"{sum(of)} of {len(of)}") for (arm, budget), of in sorted(decided.items())]
    return Sheet("Trainings that the gate let pass", ("arm", "asked a domain", "promoted"), tuple(rows))


def _mean(values: Sequence[float | None], form: str) -> str:
    told = np.array([value for value in values if value is not None], float)
    if not told.size:
        return NOTHING
    if told.size == 1:
        return form.format(told[0])
    interval = mean_interval(told)
    return f"{form.format(interval.estimate)} [{form.format(interval.low)}, {form.format(interval.high)}]"


def _band(errors: Sequence[float | None], shown: Sequence[float | None]) -> str:
    found = [np.array([value for value in values if value is not None], float) for values in (errors, shown)]
    return (
        NOTHING
        if not all(each.size for each in found)
        else " in ".join(f"{each.mean():.1%}" for each in found)
    )
