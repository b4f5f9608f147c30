"""A simulation on paper: tables, `simulation.json` with every raw row, `.csv`, `.md` and the plot `.png`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from overread.studies.pictures import COLOURS, MARKERS, picture, tidy
from overread.studies.sheets import Sheet, markdown, signed, verdict
from overread.studies.simulation.statistics import Row, Summary, curve, mean_interval, summarise

NAME = "simulation"
NEVER = "never"


def write_report(rows: Sequence[Row], settings: Mapping[str, Any], out: Path) -> Summary:
    """Write the four files to the folder `out` and return the statistics.

    Raises:
        BadInputError: no seed is complete.
    """
    summary = summarise(rows)
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "settings": dict(settings),
        "summary": asdict(summary),
        "rows": [asdict(row) for row in rows],
    }
    (out / f"{NAME}.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    _write_csv(rows, out / f"{NAME}.csv")
    (out / f"{NAME}.md").write_text(markdown(sheets(summary)))
    plot(rows, summary, out / f"{NAME}.png")
    return summary


def sheets(summary: Summary) -> list[Sheet]:
    """Standings and pairs, in words and figures."""
    seeds = len(summary.seeds)
    target = "" if summary.target is None else f"cases to {summary.chance}'s last Dice ({summary.target:.3f})"
    columns = [
        "strategy",
        "AUBC, cases",
        "AUBC, minutes",
        "last Dice",
        *([target, "seed by seed"] if target else []),
        "central Dice, change",
        "minutes",
        "promoted",
    ]
    standings = []
    for row in summary.standings:
        reached = [NEVER if n is None else str(n) for n in row.enough_by_seed]
        enough = [NEVER if row.enough is None else str(row.enough), ", ".join(reached)] if target else []
        standings.append(
            (
                row.strategy,
                str(row.aubc),
                str(row.aubc_minutes),
                str(row.last),
                *enough,
                signed(row.central_change),
                f"{row.minutes.estimate:.0f}",
                f"{row.promotions:.0%}",
            )
        )
    pairs = tuple(
        (
            f"{pair.first} against {pair.second}",
            f"{pair.wins} / {pair.ties} / {pair.losses}",
            signed(pair.difference),
            verdict(pair.difference, seeds),
        )
        for pair in summary.pairs
    )
    counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
    gate = summary.gate
    judged = (
        []
        if gate is None
        else [
            Sheet(
                "The gate against the test cases, which it does not see: challengers",
                ("", "better on the test cases", "not better"),
                (
                    ("promoted", str(gate.promoted_better), str(gate.promoted_not_better)),
                    ("rejected", str(gate.rejected_better), str(gate.rejected_not_better)),
                ),
            )
        ]
    )
    return [
        Sheet(f"Test Dice over {counted}, mean [95 %]", tuple(columns), tuple(standings)),
        Sheet(
            "Area under Dice against cases, seed by seed (paired bootstrap, 95 %)",
            ("pair", "wins / ties / losses", "difference", "in words"),
            pairs,
        ),
        *judged,
    ]


def plot(rows: Sequence[Row], summary: Summary, path: Path) -> None:
    """Dice against cases, estimated minutes and labelled volume, and central Dice: mean over seeds with 95 %."""
    with picture(path, (11, 8.2)) as figure:
        _draw_panels(figure.subplots(2, 2), rows, summary)
        seeds = "1 seed" if len(summary.seeds) == 1 else f"{len(summary.seeds)} seeds"
        figure.suptitle(f"Mean over {seeds}, band: 95 % interval of the mean", fontsize=11)


def _draw_panels(axes: np.ndarray, rows: Sequence[Row], summary: Summary) -> None:
    panels = (
        (axes[0, 0], "cases", "test_dice", "labelled cases", "test Dice"),
        (axes[0, 1], "minutes", "test_dice", "estimated minutes of the reader", "test Dice"),
        (axes[1, 0], "labelled_mm3", "test_dice", "labelled volume (cm³)", "test Dice"),
        (axes[1, 1], "cases", "central_dice", "labelled cases", "central Dice (protected cases)"),
    )
    for panel, budget, quantity, below, beside in panels:
        for index, standing in enumerate(summary.standings):
            curves = [curve(rows, standing.strategy, seed) for seed in summary.seeds]
            _draw(panel, curves, budget, quantity, standing.strategy, index)
        if quantity == "test_dice" and summary.target is not None:
            panel.axhline(summary.target, color="0.5", linewidth=1, linestyle=":")
            panel.annotate(
                f"{summary.chance} at its last budget",
                (0, summary.target),
                xycoords=("axes fraction", "data"),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=8,
                color="0.35",
            )
        panel.set_xlabel(below)
        panel.set_ylabel(beside)
        tidy(panel)
    axes[0, 0].legend(frameon=False, loc="lower right")


def _draw(
    panel: Axes, curves: Sequence[Sequence[Row]], budget: str, quantity: str, name: str, index: int
) -> None:
    """One strategy in one panel; budgets that differ between seeds (minutes) are shown at their mean."""
    scale = 1000.0 if budget == "labelled_mm3" else 1.0
    x = np.mean([[getattr(row, budget) / scale for row in c] for c in curves], axis=0)
    values = np.array([[getattr(row, quantity) for row in c] for c in curves])
    intervals = [mean_interval(column) for column in values.T]
    colour = COLOURS[index % len(COLOURS)]
    marker = MARKERS[index % len(MARKERS)]
    panel.plot(x, [i.estimate for i in intervals], color=colour, marker=marker, markersize=4, label=name)
    panel.fill_between(
        x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.13, linewidth=0
    )


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    plain = [
        name
        for name in Row.__dataclass_fields__
        if name not in ("class_dice", "case_dice", "picks", "seconds")
    ]
    classes = list(rows[0].class_dice)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, *(f"dice {name}" for name in classes), "picks", "seconds"])
        for row in rows:
            values = asdict(row)
            writer.writerow(
                [
                    *("" if values[name] is None else values[name] for name in plain),
                    *(row.class_dice[name] for name in classes),
                    " ".join(row.picks),
                    round(sum(row.seconds.values()), 1),
                ]
            )
