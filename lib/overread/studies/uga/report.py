"""The study on paper: `report.html`, which needs nothing beside it, and `results.md` with its plots as PNG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.studies.sheets import markdown, signed, verdict
from overread.studies.uga.figures import plot_curves, plot_domains, plot_doubt, plot_kinds
from overread.studies.uga.findings import LEAST_GAP, Findings
from overread.studies.uga.goals import MET, Judgement, judge_goals
from overread.studies.uga.page import Chapter, Plot, html
from overread.studies.uga.rows import BASELINE, RANDOM, read_results
from overread.studies.uga.tables import all_sheets

TITLE = "Does asking by doubt help?"
PAGE, TABLES = "report.html", "results.md"


def write_report(results: Mapping[str, Any] | Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `report.html`, `results.md` and the plots of one or several sets.

    Args:
        results: the study's JSON, one for each set.
        folder: is made; files of the same names are replaced.

    Raises:
        BadInputError: results that lack something, of which no seed is complete, or two sets of one name.
    """
    several = [results] if isinstance(results, Mapping) else list(results)
    read = [read_results(each) for each in several]
    names = [_file_name(each.study.set) for each in read]
    if len(set(names)) < len(names):
        raise BadInputError(f"two of the sets {', '.join(each.study.set for each in read)} have one name")
    folder.mkdir(parents=True, exist_ok=True)
    chapters = [_chapter(Findings(each), folder, name) for each, name in zip(read, names, strict=True)]
    (folder / PAGE).write_text(html(TITLE, chapters), encoding="utf-8")
    (folder / TABLES).write_text("\n".join(map(_markdown, chapters)), encoding="utf-8")


def _chapter(findings: Findings, folder: Path, name: str) -> Chapter:
    plots = [
        Plot(
            folder / f"{name}-curves.png",
            "Dice against what is asked in a domain. Bars: 95 % interval of the difference to no labels.",
        ),
        Plot(
            folder / f"{name}-domains.png",
            "Dice by domain and arm at the last budget (figure 4 of the paper, by centre). Bars as above.",
        ),
    ]
    plot_curves(findings, plots[0].path)
    plot_domains(findings, plots[1].path)
    kinds = folder / f"{name}-kinds.png"
    if plot_kinds(findings, kinds):
        caption = "Dice by class of case at the last budget (figure 4 of the paper, by type of slide). Bars as above."
        plots.append(Plot(kinds, caption))
    for measure in findings.results.measures:
        path = folder / f"{name}-doubt-{_file_name(measure)}.png"
        plot_doubt(findings, measure, path)
        plots.append(
            Plot(path, f"Doubt of a patch against its Dice, before anything was asked (figure 3), {measure}.")
        )
    return Chapter(findings.study.set, _facts(findings), _sentences(findings), plots, all_sheets(findings))


def _facts(findings: Findings) -> list[tuple[str, str]]:
    study = findings.study
    left_out = sorted(set(study.seeds) - set(findings.seeds))
    facts = [
        ("preset", study.preset),
        ("central domain", study.central),
        (f"{study.unit} asked in a domain", ", ".join(map(str, study.budgets))),
        ("seeds", ", ".join(map(str, findings.seeds))),
    ]
    if left_out:
        facts.append(("seeds not finished, left out", ", ".join(map(str, left_out))))
    if study.patch_px and study.um_per_px:
        facts.append(("patch", f"{study.patch_px} px of {study.um_per_px:g} µm"))
    if study.seconds is not None:
        facts.append(("time of all pieces", f"{study.seconds / 60:.0f} min"))
    return [*facts, *([("command", study.command)] if study.command else [])]


def _sentences(findings: Findings) -> list[str]:
    """What came out in words, good news and bad, all from the numbers."""
    study = findings.study
    told = []
    for place in findings.places:
        gap = findings.gap(place)
        if gap is not None:
            worth = (
                "worth asking about" if gap.estimate > LEAST_GAP else "hardly a gap: asking can win little"
            )
            told.append(f"{place}: all labels are {signed(gap)} Dice ahead of none, {worth}.")
    place = findings.places[-1]
    areas = {arm: area for arm in study.asking if (area := findings.area(arm, place)) is not None}
    if areas:
        best = max(areas, key=lambda arm: areas[arm].estimate)
        told.append(f"Highest area under the budget curve ({place}): {best}, {areas[best]}.")
        if best != RANDOM and RANDOM in study.asking:
            lead = findings.area_difference(best, RANDOM, place)
            if lead is not None:
                told.append(
                    f"Against random it is {signed(lead)} Dice on the way: {verdict(lead, len(findings.seeds))}."
                )
    goals = judge_goals(findings)
    told += [f"{arm}: {_goals_of([goal for goal in goals if goal.arm == arm])}." for arm in study.by_doubt]
    for arm in (arm for arm in study.arms if arm in ("hed", "adabn", "pseudo")):
        change = findings.difference(arm, BASELINE, 0, place)
        if change is not None:
            told.append(f"Without any label, {arm} changes Dice by {signed(change)} ({place}).")
    return told


def _goals_of(goals: Sequence[Judgement]) -> str:
    """How often each goal was met, of where it could be measured."""
    parts = []
    for name in dict.fromkeys(goal.goal for goal in goals):
        own = [goal for goal in goals if goal.goal == name and goal.measured is not None]
        met = sum(goal.verdict == MET for goal in own)
        parts.append(f"{name}: {met} of {len(own)}" if own else f"{name}: not measured")
    return "; ".join(parts)


def _markdown(chapter: Chapter) -> str:
    facts = " · ".join(
        f"{name}: `{text}`" if name == "command" else f"{name}: {text}" for name, text in chapter.facts
    )
    lines = [f"## {chapter.title}", "", facts, ""]
    lines += [f"- {sentence}" for sentence in chapter.sentences]
    lines.append("")
    for plot in chapter.plots:
        lines += [f"![{plot.caption}]({plot.path.name})", ""]
    return "\n".join([*lines, markdown(chapter.sheets)])


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "set"
