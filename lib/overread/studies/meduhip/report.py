"""What the study found so far, as tables, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import NotFoundError
from overread.imaging.rated import RatedDataset
from overread.meduhip.lessons import RatedLessons
from overread.metrics.correlation import Interval
from overread.metrics.crossed import crossed_interval
from overread.metrics.interactions import MOST_INTERACTIONS, summarise
from overread.studies.sheets import signed

SHOWN_TURNS = (0, 1, 3, 6)
# Of the table by number of fused raters.
TURNS_BY_RATERS = (0, 1, 3)
OURS = "MedUHIP"
BOOTSTRAP_SEED = 1
# What was played under these names is what the new ones say: the Mean-Variance Network heard every click, without
# weights there was no posterior either, and what had learnt with one Gaussian played with the mixture.
FORMER_NAMES = {
    "MedUHIP, no Mean-Variance Network": "MedUHIP, means not moved",
    "MedUHIP, no weights": "MedUHIP, even weights",
    "MedUHIP, collapsed mixture": "MedUHIP, learnt with one averaged Gaussian, played as a mixture",
}


@dataclass(frozen=True)
class Line:
    """One system with one clinician, over all that was played.

    Attributes:
        name: of the contest.
        dice: at each of `turns`, the mean over numbers of raters of the mean over cases and seeds. Where the truth and
            what is shown are empty, it is 1. Intervals are over patients and seeds, both drawn anew; of one seed over
            patients alone.
        dice_non_empty: the same over truths that mark something; None where none does.
        shown_though_empty: of the sessions whose truth is empty, the share in which something is shown at each of
            `turns`; None where no truth is.
        turns: interactions.
        by_raters: Dice at those turns for truths of 1, 2, … raters, `(raters, turn)`.
        against: ours minus this at each turn, paired by case; None for ours.
        interactions: to reach the thresholds.
        best_of_samples, best_of_candidates: before any interaction, by oracle.
        ged_squared, d_max: of its samples against the raters; None without samples.
        folds, seeds, cases: how much of the study is in it.
    """

    name: str
    dice: tuple[Interval, ...]
    dice_non_empty: tuple[Interval, ...] | None
    shown_though_empty: tuple[float, ...] | None
    turns: tuple[int, ...]
    by_raters: tuple[tuple[float, ...], ...]
    against: tuple[Interval, ...] | None
    interactions: dict[str, tuple[float, float]]
    best_of_samples: float | None
    best_of_candidates: float | None
    ged_squared: float | None
    d_max: float | None
    folds: int
    seeds: int
    cases: int


def read_sessions(work: Path) -> dict[str, list[dict[str, Any]]]:
    """All sessions by contest, with the fold and seed they are of; earlier ones under true names.

    Raises:
        NotFoundError: nothing was played yet.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    seen: set[tuple[str, int, int]] = set()
    # `ablations` before `meduhip`, among which earlier versions played them.
    for path in sorted(Path(work).glob("seed_*/fold_*/*.json")):
        played = json.loads(path.read_text())
        for played_as, contest in played["contests"].items():
            name: str = FORMER_NAMES.get(str(played_as), str(played_as))
            if (name, played["seed"], played["fold"]) in seen:
                continue
            seen.add((name, played["seed"], played["fold"]))
            sets = {row["case"]: row for row in contest["sets"]}
            for session in contest["sessions"]:
                session |= {"seed": played["seed"], "fold": played["fold"], "set": sets.get(session["case"])}
                found.setdefault(name, []).append(session)
    if not found:
        raise NotFoundError(f"{work} holds no session yet")
    return found


def summary(work: Path, thresholds: Sequence[float] = (0.88, 0.9)) -> list[Line]:
    """One line a contest, ours first; differences are over the cases and seeds that both have played."""
    sessions = read_sessions(work)
    most = len(next(iter(sessions.values()))[0]["dice"]) - 1
    turns = tuple(turn for turn in SHOWN_TURNS if turn <= most)
    ours = sessions.get(OURS, [])
    names = sorted(sessions, key=lambda name: name != OURS)
    return [_line(name, sessions[name], ours, turns, thresholds) for name in names]


def _line(
    name: str,
    sessions: list[dict[str, Any]],
    ours: list[dict[str, Any]],
    turns: tuple[int, ...],
    thresholds: Sequence[float],
) -> Line:
    table, _ = _table(sessions, turns)
    marked = [session for session in sessions if not session["empty"]]
    empty = [session["dice"] for session in sessions if session["empty"]]
    dice = np.array([session["dice"] for session in sessions])
    most = min(MOST_INTERACTIONS, dice.shape[1] - 1)
    counted = {f"{t:g}": summarise(dice, t, most=most) for t in thresholds}
    sets = [session["set"] for session in sessions if session["set"] is not None]
    return Line(
        name=name,
        dice=_intervals(sessions, turns),
        dice_non_empty=_intervals(marked, turns) if marked else None,
        # Of an empty truth, whatever is shown has a Dice of 0, and nothing one of 1.
        shown_though_empty=tuple(float(np.mean([d[t] < 0.5 for d in empty])) for t in turns)
        if empty
        else None,
        turns=turns,
        by_raters=tuple(
            tuple(float(np.nanmean(table[..., row, column])) for column in range(len(turns)))
            for row in range(table.shape[2])
        ),
        against=None if name == OURS or not ours else _differences(ours, sessions, turns),
        interactions={key: (found.mean, found.failed) for key, found in counted.items()},
        best_of_samples=_mean(sessions, "best_of_samples"),
        best_of_candidates=_mean(sessions, "best_of_candidates"),
        ged_squared=float(np.mean([s["ged_squared"] for s in sets])) if sets else None,
        d_max=float(np.mean([s["d_max"] for s in sets])) if sets else None,
        folds=len({session["fold"] for session in sessions}),
        seeds=len({session["seed"] for session in sessions}),
        cases=len({session["case"] for session in sessions}),
    )


def _table(sessions: list[dict[str, Any]], turns: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean Dice over repetitions `(seed, case, raters, turn)`, NaN where not played, and the patient of each case."""
    seeds = sorted({session["seed"] for session in sessions})
    cases = sorted({session["case"] for session in sessions})
    most = max(session["raters"] for session in sessions)
    total = np.zeros((len(seeds), len(cases), most, len(turns)))
    count = np.zeros((len(seeds), len(cases), most, 1))
    patients = np.empty(len(cases), dtype=object)
    for session in sessions:
        place = seeds.index(session["seed"]), cases.index(session["case"]), session["raters"] - 1
        patients[place[1]] = session["patient"]
        total[place] += [session["dice"][turn] for turn in turns]
        count[place] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), patients


def _intervals(sessions: list[dict[str, Any]], turns: tuple[int, ...]) -> tuple[Interval, ...]:
    table, patients = _table(sessions, turns)
    return tuple(_interval(table[..., index], patients) for index in range(len(turns)))


def _differences(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], turns: tuple[int, ...]
) -> tuple[Interval, ...]:
    def key(session: dict[str, Any]) -> tuple[Any, ...]:
        return (session["case"], session["seed"])

    both = {key(session) for session in ours} & {key(session) for session in theirs}
    mine, patients = _table([session for session in ours if key(session) in both], turns)
    other, _ = _table([session for session in theirs if key(session) in both], turns)
    return tuple(_interval((mine - other)[..., index], patients) for index in range(len(turns)))


def _interval(values: np.ndarray, patients: np.ndarray) -> Interval:
    """Of the mean over trainings and cases of the mean over numbers of raters; `values` are `(seed, case, raters)`."""
    played = np.isfinite(values)
    means = np.divide(
        np.where(played, values, 0.0).sum(axis=2),
        played.sum(axis=2),
        out=np.full(values.shape[:2], np.nan),
        where=played.any(axis=2),
    )
    return crossed_interval([means], generator=np.random.default_rng(BOOTSTRAP_SEED), groups=patients)


def _mean(sessions: list[dict[str, Any]], what: str) -> float | None:
    values = [session[what] for session in sessions if session[what] is not None]
    return float(np.mean(values)) if values else None


def who_rated(dataset: RatedDataset, train: Sequence[str] = (), test: Sequence[str] = ()) -> str:
    """Whose opinions a study of this data set is about, in a sentence: of people, or of pseudo-raters.

    Args:
        train, test: the published parts that were learnt from and tested on; none where folds were made.
    """
    said = _who_rated(dataset)
    if not test:
        return said
    learnt, tested = (
        f"{' and '.join(names)} ({sum(case.subset in names for case in dataset.cases)} cases)"
        for names in (train, test)
    )
    return f"{said}; learnt from the published part {learnt}, tested on {tested}"


def _who_rated(dataset: RatedDataset) -> str:
    cases = f"{dataset.name}, {len(dataset.cases)} cases of {len(dataset.patients)} patients"
    if styles := RatedLessons(dataset, "structure").styles:
        return (
            f"{cases}, one label each: the raters are {len(styles)} pseudo-raters, computed from it, "
            "with the same habits in training and test"
        )
    counts = sorted({len(case.raters) for case in dataset.cases})
    return f"{cases}, each labelled by {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} people"


def markdown(lines: Sequence[Line], raters: str) -> str:
    """The tables as Markdown, below what was rated by whom (see `who_rated`)."""
    seeds = max(line.seeds for line in lines)
    over = f" and {seeds} trainings a fold" if seeds > 1 else ", not over trainings: there is one a fold"
    intervals = f"Intervals are over patients{over}."
    return "\n".join([f"{raters}. {intervals}", "", *_main_table(lines), *_tables_by_raters(lines)]) + "\n"


def _main_table(lines: Sequence[Line]) -> list[str]:
    turns = lines[0].turns
    at = turns.index(3) if 3 in turns else len(turns) - 1
    some_are_empty = any(line.shown_though_empty is not None for line in lines)
    of_all = "all truths, " if some_are_empty else ""
    columns: list[tuple[str, list[str]]] = [("system", [line.name for line in lines])]
    columns += [
        (f"{of_all}t = {turn}", [str(line.dice[i]) for line in lines]) for i, turn in enumerate(turns)
    ]
    if some_are_empty:
        for name, values in (
            ("truth not empty", [line.dice_non_empty for line in lines]),
            ("truth empty: something shown", [line.shown_though_empty for line in lines]),
        ):
            columns += [
                (f"{name}, t = {turn}", ["" if value is None else _said(value[i]) for value in values])
                for i, turn in enumerate(turns)
            ]
    ahead = ["" if line.against is None else signed(line.against[at]) for line in lines]
    columns.append(("MedUHIP ahead at t = 3", ahead))
    for threshold in lines[0].interactions:
        counts = [line.interactions[threshold] for line in lines]
        columns.append(
            (
                f"interactions to {threshold} (failed)",
                [f"{mean:.2f} ({failed:.0%})" for mean, failed in counts],
            )
        )
    for name, values in (
        ("best of N", [line.best_of_samples for line in lines]),
        ("best of K", [line.best_of_candidates for line in lines]),
    ):
        if any(value is not None for value in values):
            columns.append((name, [_number(value) for value in values]))
    columns += [
        ("GED²", [_number(line.ged_squared) for line in lines]),
        ("D_max", [_number(line.d_max) for line in lines]),
        ("folds × seeds", [f"{line.folds} × {line.seeds}" for line in lines]),
    ]
    return _table_of(columns)


def _tables_by_raters(lines: Sequence[Line]) -> list[str]:
    """As the paper's Table 1: a column for each number of raters whose fused opinion is wanted."""
    most = max(len(line.by_raters) for line in lines)
    if most < 2:
        return []
    rows: list[str] = []
    for index, turn in enumerate(lines[0].turns):
        if turn not in TURNS_BY_RATERS:
            continue
        columns = [("system", [line.name for line in lines])]
        columns += [(f"n = {n + 1}", [_by_raters(line, n, index) for line in lines]) for n in range(most)]
        rows += ["", f"Dice at t = {turn} by the number n of raters fused:", "", *_table_of(columns)]
    return rows


def _by_raters(line: Line, row: int, turn: int) -> str:
    return _number(line.by_raters[row][turn]) if row < len(line.by_raters) else ""


def _table_of(columns: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    rows = [[name for name, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    told = ["| " + " | ".join(row) + " |" for row in rows]
    return [told[0], "|" + "---|" * len(columns), *told[1:]]


def _said(value: Interval | float) -> str:
    return str(value) if isinstance(value, Interval) else f"{value:.1%}"


def plot(lines: Sequence[Line], path: Path, sessions: dict[str, list[dict[str, Any]]]) -> None:
    """Dice over interactions, one curve a contest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        most = len(sessions[line.name][0]["dice"])
        table, _ = _table(sessions[line.name], tuple(range(most)))
        curve = np.nanmean(np.nanmean(table, axis=(0, 1)), axis=0)
        width, opacity = (2.5, 1.0) if line.name == OURS else (1.2, 0.85)
        # There are ten colours.
        style = ("-", "--", ":")[len(axes.lines) // 10 % 3]
        axes.plot(
            range(most),
            curve,
            style,
            marker="o",
            markersize=3,
            label=line.name,
            linewidth=width,
            alpha=opacity,
        )
    axes.set_xlabel("interactions")
    axes.set_ylabel("Dice, mean over truths of 1 … n raters")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
