"""The study as plots: budget curves, and figures 3 and 4 of the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from overread.metrics.correlation import Interval
from overread.studies.pictures import COLOURS, MARKERS, picture, tidy
from overread.studies.uga.findings import POOLED, Findings
from overread.studies.uga.rows import BASELINE, CEILING, UNASKED

PANEL = (4.0, 3.3)
# Each arm looks the same in the plots of all sets; others come after these.
KNOWN = (
    "uga",
    "most_uncertain",
    "clasp_pe",
    "pairwise_dice",
    "foreground_random",
    "random",
    "sure_and_unsure",
)
# Lines of arms that ask for nothing: colour and dashes.
LEVELS = {
    BASELINE: ("0.45", "--"),
    CEILING: ("0.1", "-"),
    "hed": ("#8a5a00", ":"),
    "adabn": ("#5b3f8c", "-."),
    "pseudo": ("#1b6f5f", "-."),
}
# Panels of a row; groups of arms in one panel.
COLUMNS, GROUPS = 3, 6
BINS = 8
# Of an entry of a legend; of Dice on an axis.
LEGEND_INCHES, LEAST_SPAN = 1.65, 0.1


def plot_curves(findings: Findings, path: Path) -> None:
    """Dice against patches a domain, a panel a place; bars are 95 % intervals of the difference to no labels."""
    study = findings.study
    places = _places(findings)
    with _panels(path, len(places)) as panels:
        budgets = sorted({0, *study.budgets})
        step = min(np.diff(budgets)) if len(budgets) > 1 else 1
        asking = study.asking
        for panel, place in zip(panels, places, strict=False):
            for arm in (arm for arm in study.arms if arm in UNASKED):
                level = findings.dice(arm, 0, place)
                if level is not None:
                    colour, dashes = LEVELS[arm]
                    panel.axhline(level.estimate, color=colour, linestyle=dashes, linewidth=1.3, label=arm)
            for index, arm in enumerate(asking):
                # Beside each other, so that bars can be told apart.
                shift = (index - (len(asking) - 1) / 2) * 0.05 * step
                points = [
                    (budget + (shift if budget else 0), found)
                    for budget in budgets
                    if (found := findings.beside_baseline(arm, budget, place)) is not None
                ]
                _bars(panel, points, _look(arm, study.arms), arm, line=True)
            panel.set_title(_title(findings, place), fontsize=10)
            panel.set_xticks(budgets)
            panel.set_xlabel(f"{study.unit} asked in a domain")
            panel.set_ylabel("Dice on held-out cases")
            _widen(panel)
            tidy(panel)


def plot_doubt(findings: Findings, measure: str, path: Path) -> None:
    """Doubt of patches against their Dice before anything was asked (figure 3 of the paper), a panel a domain."""
    places = [place for place in _places(findings) if len(findings.doubt_against_dice(measure, place)[0])]
    with _panels(path, max(len(places), 1), legend=False) as panels:
        for panel, place in zip(panels, places, strict=False):
            pairs, rho = findings.doubt_against_dice(measure, place)
            panel.scatter(
                pairs[:, 0], pairs[:, 1], s=9, color=COLOURS[0], alpha=_opacity(len(pairs)), linewidth=0
            )
            _medians(panel, pairs)
            told = "no rank correlation" if rho is None else f"ρ = {rho}"
            panel.set_title(f"{_title(findings, place)}\n{told}, {len(pairs)} patches", fontsize=9)
            panel.set_ylim(-0.03, 1.03)
            panel.set_xlabel(f"doubt ({measure})")
            panel.set_ylabel("Dice")
            tidy(panel)


def plot_domains(findings: Findings, path: Path) -> None:
    """Dice by domain and arm at the last budget (figure 4 of the paper, left)."""
    places = _places(findings)
    last = max(findings.study.budgets)
    found = {
        arm: [findings.beside_baseline(arm, last, place) for place in places] for arm in findings.study.arms
    }
    _groups(
        found,
        [_title(findings, place) for place in places],
        f"Dice, {last} {findings.study.unit} a domain",
        path,
    )


def plot_kinds(findings: Findings, path: Path) -> bool:
    """Dice by class of case and arm, local domains (figure 4 of the paper, right); False where cases have no class."""
    last = max(findings.study.budgets)
    kinds = [kind for kind in findings.results.kinds if findings.dice(BASELINE, 0, POOLED, kind) is not None]
    if not kinds:
        return False
    found = {
        arm: [findings.beside_baseline(arm, last, POOLED, kind) for kind in kinds]
        for arm in findings.study.arms
    }
    _groups(found, kinds, f"Dice, {last} {findings.study.unit} a domain", path)
    return True


def _places(findings: Findings) -> list[str]:
    central = findings.study.central
    return [*findings.places, *([central] if central in findings.study.domains else [])]


def _title(findings: Findings, place: str) -> str:
    if place == POOLED:
        return "all local domains"
    return f"{place} (central)" if place == findings.study.central else place


@contextmanager
def _panels(path: Path, count: int, *, legend: bool = True) -> Iterator[list[Axes]]:
    """A grid of panels in a picture; those that are not needed stay empty. A legend goes below them."""
    columns = min(count, COLUMNS)
    rows = ceil(count / columns)
    with picture(path, (PANEL[0] * columns, PANEL[1] * rows + (0.7 if legend else 0))) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel in panels[count:]:
            panel.set_axis_off()
        yield panels
        if legend:
            _legend(figure, panels)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    named = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = max(2, int(figure.get_figwidth() / LEGEND_INCHES))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )


def _look(arm: str, arms: Sequence[str]) -> int:
    """Number of the colour and the marker of an arm that asks."""
    others = [each for each in arms if each not in KNOWN and each not in UNASKED]
    return KNOWN.index(arm) if arm in KNOWN else len(KNOWN) + others.index(arm)


def _widen(panel: Axes) -> None:
    """At least `LEAST_SPAN` of Dice from bottom to top, lest noise look like news."""
    low, high = panel.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high - low))
    # No Dice lies below 0.
    bottom = max(low - missing / 2, -LEAST_SPAN / 5)
    panel.set_ylim(bottom, max(high + missing / 2, bottom + LEAST_SPAN))


def _bars(
    panel: Axes, points: Sequence[tuple[float, Interval]], index: int, label: str, *, line: bool
) -> None:
    """Estimates with their intervals."""
    if not points:
        return
    x = [place for place, _ in points]
    y = np.array([found.estimate for _, found in points])
    below = y - [found.low for _, found in points]
    above = np.array([found.high for _, found in points]) - y
    panel.errorbar(
        x,
        y,
        yerr=np.maximum([below, above], 0),
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        linewidth=1.4 if line else 0,
        elinewidth=0.9,
        label=label,
    )


def _medians(panel: Axes, pairs: np.ndarray) -> None:
    """Median Dice in bins of as many patches each, so that the eye finds the trend."""
    if len(pairs) < 4 * BINS:
        return
    order = np.argsort(pairs[:, 0], kind="stable")
    parts = np.array_split(pairs[order], BINS)
    panel.plot(
        [np.median(part[:, 0]) for part in parts],
        [np.median(part[:, 1]) for part in parts],
        color=COLOURS[1],
        linewidth=1.6,
        marker="o",
        markersize=3.5,
    )


def _opacity(count: int) -> float:
    return float(np.clip(60 / count**0.75, 0.08, 0.6))


def _groups(found: dict[str, list[Interval | None]], groups: Sequence[str], what: str, path: Path) -> None:
    """Estimates with intervals, arms beside each other in every group."""
    rows = ceil(len(groups) / GROUPS)
    columns = ceil(len(groups) / rows)
    width = max(5.0, 1.4 + columns * (0.9 + 0.13 * len(found)))
    with picture(path, (width, 3.0 * rows + 0.7)) as figure:
        panels = list(figure.subplots(rows, 1, squeeze=False).flat)
        for row, panel in enumerate(panels):
            shown = list(range(len(groups)))[row * columns : (row + 1) * columns]
            for position, arm in enumerate(found):
                shift = (position - (len(found) - 1) / 2) * 0.75 / len(found)
                points = [
                    (place + shift, interval)
                    for place, group in enumerate(shown)
                    if (interval := found[arm][group]) is not None
                ]
                if arm in UNASKED:
                    _level_bars(panel, points, arm)
                else:
                    _bars(panel, points, _look(arm, list(found)), arm, line=False)
            panel.set_xticks(range(len(shown)), [groups[group] for group in shown])
            panel.set_xlim(-0.5, columns - 0.5)
            for border in range(len(shown) - 1):
                panel.axvline(border + 0.5, color="0.85", linewidth=0.8)
            panel.set_ylabel(what)
            _widen(panel)
            tidy(panel)
            panel.grid(visible=False, axis="x")
        _legend(figure, panels)


def _level_bars(panel: Axes, points: Sequence[tuple[float, Interval]], arm: str) -> None:
    """Arms that ask for nothing: hollow, so that the eye takes them for the frame of the others."""
    if not points:
        return
    y = np.array([found.estimate for _, found in points])
    below = y - [found.low for _, found in points]
    above = np.array([found.high for _, found in points]) - y
    panel.errorbar(
        [place for place, _ in points],
        y,
        yerr=np.maximum([below, above], 0),
        color=LEVELS[arm][0],
        marker={BASELINE: "_", CEILING: "*"}.get(arm, "."),
        markersize=9,
        linewidth=0,
        elinewidth=0.9,
        label=arm,
    )
