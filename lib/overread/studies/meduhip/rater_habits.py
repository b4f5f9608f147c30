"""Does a memory of a reader's habits help with people? Those who labelled the same cases, one after the other.

Half of the patients teach a model what all raters drew. Then each rater, alone, works through the other half in one
order, with memory and without, until what is shown has a Dice of 0.9 with what they drew. The memory sees what was
shown in the end, not what they drew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import BadInputError
from overread.ensemble.member_training import write_json
from overread.imaging.rated import RatedDataset
from overread.meduhip.choosers import ORACLE
from overread.meduhip.memory import Preference
from overread.meduhip.rated_store import RatedStore
from overread.metrics.correlation import Interval, bootstrap_mean
from overread.studies.meduhip.arms import Bench, train_ours
from overread.studies.meduhip.clinicians import Clinician
from overread.studies.meduhip.habits import BOOTSTRAP_SEED, ENOUGH_DICE, all_of_it, work_through
from overread.studies.meduhip.study import FOLDS_SEED, Protocol, prepare_study

# Cases before that are for getting to know each other.
KNOWN_AFTER = 5
WITHOUT = "no memory"


def _styles_alone(preference: Preference) -> Preference:
    return replace(preference, level=0.0)


CONDITIONS: dict[str, Callable[[Preference], Preference] | None] = {
    WITHOUT: None,
    "memory of styles alone": _styles_alone,
    "memory": all_of_it,
}


def run_raters(
    dataset: RatedDataset,
    work: Path,
    protocol: Protocol,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> list[dict[str, Any]]:
    """Train and play what was not trained and played yet.

    Args:
        work: keeps models and what was played; given again, the study goes on.
        protocol: its seeds, minutes and device count.

    Returns:
        One row a seed, rater and condition: `cases`, and for each `interactions` and `first`, the Dice of what was
        shown before any.

    Raises:
        BadInputError: too few cases, or cases that one person or different numbers of people labelled: nobody knows
            who is who.
    """
    if len(dataset.raters) < 2:
        raise BadInputError(
            f"cases of {dataset.name} were labelled by one person; a study of people's habits needs several, and "
            "without --data there is one of computed raters"
        )
    plan, configuration = prepare_study(dataset, work, protocol, progress)
    store = RatedStore(work / "data" / "cases")
    raters = {len(store.whole(case.id)[1]) for case in dataset.cases}
    if len(raters) > 1:
        raise BadInputError(
            f"cases of {dataset.name} were labelled by {min(raters)} to {max(raters)} people; habits are those of "
            "people who labelled all of them, in the same order"
        )
    worked = _halves(dataset, 0)[1]
    if len(worked) <= KNOWN_AFTER:
        raise BadInputError(
            f"half of the patients of {dataset.name} leave {len(worked)} cases to work through, expected more than "
            f"{KNOWN_AFTER}"
        )
    rows: list[dict[str, Any]] = []
    for seed in range(protocol.seeds):
        path = work / f"raters_{seed}_{protocol.minutes:g}.json"
        if not path.exists():
            progress(f"training, seed {seed}", seed / protocol.seeds)
            taught, worked = _halves(dataset, seed)
            folder = work / f"raters_{seed}_{protocol.minutes:g}"
            folder.mkdir(parents=True, exist_ok=True)
            bench = Bench(
                folder, taught, work / "data", plan, configuration, protocol.minutes, seed, protocol.device
            )
            model = train_ours(bench)
            read = [store.whole(case) for case in worked]
            played = []
            for rater in range(max(raters)):
                progress(f"playing, seed {seed}, rater {rater + 1}", (seed + 0.5) / protocol.seeds)
                for name, remember in CONDITIONS.items():
                    counts, firsts = work_through(
                        model,
                        [(image, masks[rater].bool()) for image, masks in read],
                        Clinician("rater", ORACLE),
                        np.random.default_rng([seed, rater]),
                        rater,
                        remember,
                    )
                    row = {"seed": seed, "rater": rater, "condition": name, "cases": worked}
                    played.append(row | {"interactions": counts, "first": firsts})
            write_json({"rows": played}, path)
        rows += json.loads(path.read_text())["rows"]
    progress("done", 1.0)
    return rows


def _halves(dataset: RatedDataset, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases to learn from, and cases to work through in order, by patient."""
    rng = np.random.default_rng([FOLDS_SEED, seed])
    patients = rng.permutation(sorted({case.patient for case in dataset.cases}))
    half = {str(patient) for patient in patients[: len(patients) // 2]}
    taught = tuple(case.id for case in dataset.cases if case.patient in half)
    worked = [case.id for case in dataset.cases if case.patient not in half]
    return taught, tuple(worked[index] for index in rng.permutation(len(worked)))


@dataclass(frozen=True)
class RaterHabit:
    """What was found for one condition, from case `KNOWN_AFTER` + 1 on.

    Attributes:
        condition: its name.
        first: Dice before any interaction, mean over raters, cases and seeds.
        interactions: until 0.9 Dice.
        gained: Dice before any interaction more than without memory; None without.
        saved: interactions fewer; None without.
        by_rater: Dice before any interaction of each.
    """

    condition: str
    first: float
    interactions: float
    gained: Interval | None
    saved: Interval | None
    by_rater: tuple[float, ...]


def summarise_raters(rows: Sequence[dict[str, Any]]) -> list[RaterHabit]:
    """One a condition; intervals by bootstrap over cases."""
    known = [
        {**row, **{key: row[key][KNOWN_AFTER:] for key in ("cases", "first", "interactions")}} for row in rows
    ]
    usual = {(row["seed"], row["rater"]): row for row in known if row["condition"] == WITHOUT}
    found = []
    for condition in CONDITIONS:
        own = [row for row in known if row["condition"] == condition]
        raters = sorted({row["rater"] for row in own})
        gained = saved = None
        if condition != WITHOUT:
            pairs = [(row, usual[row["seed"], row["rater"]]) for row in own]
            groups = np.concatenate([row["cases"] for row, _ in pairs])
            gained = _interval([np.subtract(row["first"], other["first"]) for row, other in pairs], groups)
            fewer = [np.subtract(other["interactions"], row["interactions"]) for row, other in pairs]
            saved = _interval(fewer, groups)
        found.append(
            RaterHabit(
                condition,
                float(np.mean([row["first"] for row in own])),
                float(np.mean([row["interactions"] for row in own])),
                gained,
                saved,
                tuple(
                    float(np.mean([row["first"] for row in own if row["rater"] == rater])) for rater in raters
                ),
            )
        )
    return found


def _interval(differences: Sequence[np.ndarray], groups: np.ndarray) -> Interval:
    return bootstrap_mean(
        np.concatenate(differences).astype(float),
        generator=np.random.default_rng(BOOTSTRAP_SEED),
        groups=groups,
    )


def raters_markdown(habits: Sequence[RaterHabit]) -> str:
    """The table as Markdown."""
    people = [f"rater {number + 1}" for number in range(len(habits[0].by_rater))]
    heads = [
        f"from case {KNOWN_AFTER + 1} on",
        "Dice at first",
        "gained",
        f"interactions to {ENOUGH_DICE:g} Dice",
        "saved",
        *people,
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for habit in habits:
        cells = [
            habit.condition,
            f"{habit.first:.4f}",
            _told(habit.gained, 4),
            f"{habit.interactions:.2f}",
            _told(habit.saved, 2),
            *(f"{value:.3f}" for value in habit.by_rater),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _told(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return ""
    return f"{interval.estimate:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def plot_raters(habits: Sequence[RaterHabit], path: Path) -> None:
    """Dice before any interaction, of each rater under each condition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colours, marks = ("tab:grey", "tab:cyan", "tab:blue"), ("o", "D", "s")
    for number, (habit, colour, mark) in enumerate(zip(habits, colours, marks, strict=True)):
        places = np.arange(len(habit.by_rater)) + 0.15 * (number - (len(habits) - 1) / 2)
        axes.plot(places, habit.by_rater, mark, label=habit.condition, color=colour)
    values = [value for habit in habits for value in habit.by_rater]
    axes.set_ylim(min(values) - 0.01, max(values) + 0.015)
    axes.set_xticks(range(len(habits[0].by_rater)))
    axes.set_xticklabels([f"rater {number + 1}" for number in range(len(habits[0].by_rater))])
    axes.set_ylabel(f"Dice before any interaction, from case {KNOWN_AFTER + 1} on")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=9, ncols=len(habits))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
