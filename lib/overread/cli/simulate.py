"""`overread simulate`: which strategy is worth asking by, before anybody annotates."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from overread.cli.console import JsonOption, answers, print_json, progress_bar

if TYPE_CHECKING:
    from overread.studies.simulation.simulate import SimulationProgress
    from overread.studies.simulation.statistics import Summary

WORK = Path(".simulation")
QUICK_STRATEGIES = ("most_uncertain", "random")
ALL_STRATEGIES = ("most_uncertain", "pairwise_dice", "clasp_pe", "foreground_random", "random")
QUICK = "a minute's taste instead of a study: 1 seed, 2 strategies, 2 rounds, a small network"


def simulate(
    recipe: Annotated[str, typer.Argument(help="Name of the recipe; its measure and plan are not needed.")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Labelled cases: nnU-Net v2's raw layout, or images/ and labels/ with the same file names.",
        ),
    ],
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="Strategy of the queue; give it several times to compare. [default: "
            f"{', '.join(ALL_STRATEGIES)}]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Splits and starters to repeat it with. [default: 5]", show_default=False),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(min=1, help="Cases that the starter learns from. [default: 5]", show_default=False),
    ] = None,
    protected: Annotated[
        int | None,
        typer.Option(
            min=1, help="Central cases kept from training, for the gate. [default: 5]", show_default=False
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="Cases asked between two trainings. [default: 5]", show_default=False),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Budget: labelled cases at the end, start cases included. [default: 40]",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=1, help="Cases that only judge. [default: 40]", show_default=False)
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="Waiting cases. [default: all that are left]", show_default=False),
    ] = None,
    scored: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score only so many waiting cases a round, drawn at random. [default: all]",
            show_default=False,
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks of the ensemble. [default: 3]", show_default=False)
    ] = None,
    starter_iterations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training steps of each member of the starter. [default: 150]", show_default=False
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training steps of each member in a round. [default: 60]", show_default=False
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Patches in a training step. [default: planned]", show_default=False),
    ] = None,
    coarser: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Voxel edges in multiples of the planned ones, for speed. [default: 1]",
            show_default=False,
        ),
    ] = None,
    rate_factor: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1,
            help="Learning rate of a round, in parts of the starter's. [default: 0.1]",
            show_default=False,
        ),
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Train every challenger from random weights.")
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Judge challengers, or promote every one.")
    ] = True,
    patch_mm: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Label only a box of this edge of each case, where the doubt is greatest. [default: all]",
            show_default=False,
        ),
    ] = None,
    jitter_mm: Annotated[
        float, typer.Option(min=0, help="The robot's error: boundaries wander by this much.")
    ] = 0.0,
    missed_mm3: Annotated[
        float, typer.Option(min=0, help="The robot's error: smaller objects are missed.")
    ] = 0.0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="For images/ and labels/: class names by value, `background,anterior,posterior`.",
            show_default=False,
        ),
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that finds the patient in a case's name; else each case is a patient.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds and strategies at a time, one core each.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help=f"Defaults for {QUICK}.")] = False,
    work: Annotated[
        Path, typer.Option(help="Keeps every finished round; the same command goes on from there.")
    ] = WORK,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for simulation.json, .csv, .md and .png. [default: report/ in the study's work folder]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a robot annotate labelled cases, and see which strategy reaches which Dice at which cost.

    The queue, the label store, the trainer and the gate are those of the server; the robot gives the known label, with
    errors where asked. Cases are split by patient. The strategies of a seed share starter, test cases and pool.
    A study that was stopped goes on when the same command is given again; more seeds or strategies
    compute only what is new. The estimated minutes follow a stated model (studies/simulation/annotation_cost.py),
    not a clock.

    Examples:

        overread simulate liver_phantom --data sample-data/phantom --quick --jobs 2

        overread simulate liver --data Dataset501_Liver --strategy most_uncertain --strategy random --seeds 5 --jobs 2
    """
    from overread.learning.champions import checked_recipe_name
    from overread.studies.simulation.protocol import Protocol, open_study
    from overread.studies.simulation.report import write_report
    from overread.studies.simulation.simulate import simulate as run

    given = {
        "start": start,
        "protected": protected,
        "step": step,
        "until": until,
        "test": test,
        "pool": pool,
        "scored": scored,
        "members": members,
        "starter_iterations": starter_iterations,
        "iterations": iterations,
        "batch": batch,
        "coarser": coarser,
        "rate_factor": rate_factor,
        "patch_mm": patch_mm,
    }
    defaults = Protocol.quick(recipe) if quick else Protocol(recipe)
    protocol = defaults.changed(
        {name: value for name, value in given.items() if value is not None}
        | {
            "recipe": checked_recipe_name(recipe),
            "begin": "scratch" if scratch else "champion",
            "with_gate": gate,
        }
        | {"jitter_mm": jitter_mm, "missed_mm3": missed_mm3}
    )
    names = tuple(part.strip() for part in classes.split(",")) if classes else ()
    chosen = tuple(strategy or (QUICK_STRATEGIES if quick else ALL_STRATEGIES))
    study = open_study(protocol, data, work.expanduser(), names, patient_pattern)
    with progress_bar() as bar:
        task = bar.add_task("preparing the starters", total=None)
        began, at_first = time.monotonic(), -1

        def report(now: SimulationProgress) -> None:
            nonlocal at_first
            at_first = now.done if at_first < 0 else at_first
            left = _time_left(time.monotonic() - began, now.done - at_first, now.total - now.done)
            bar.update(task, completed=now.done, total=now.total, description=_in_words(now) + left)

        rows = run(study, chosen, seeds or (1 if quick else 5), jobs, report)
    folder = (out or study.folder / "report").expanduser().resolve()
    summary = write_report(rows, study.settings(), folder)
    if as_json:
        print_json({"summary": asdict(summary), "report": str(folder)})
        return
    print_summary(summary)
    answers.print(f"Rows, tables and plot are in {folder}", markup=False, soft_wrap=True, highlight=False)


def print_summary(summary: Summary) -> None:
    """The tables of the report."""
    from overread.studies.simulation.report import sheets

    for sheet in sheets(summary):
        table = Table(*sheet.columns, title=sheet.title, title_justify="left")
        for row in sheet.rows:
            table.add_row(*row)
        answers.print(table)


def _in_words(now: SimulationProgress) -> str:
    if now.newest is None:
        return "training the starters"
    row = now.newest
    newest = f"seed {row.seed}, {row.strategy}, {row.cases} cases: Dice {row.test_dice:.3f}"
    return f"round {now.done} of {now.total} ({newest})"


def _time_left(passed_s: float, finished: int, missing: int) -> str:
    """Empty as long as nothing was finished in this run."""
    return f", {passed_s / finished * missing / 60:.0f} min left" if finished else ""
