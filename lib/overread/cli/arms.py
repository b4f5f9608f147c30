"""`overread arms`: whether asking by doubt beats chance, on this place's own labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from overread.cli.console import AppOption, DatabaseOption, JsonOption, answers, existing_database, print_json

if TYPE_CHECKING:
    from overread.learning.arms import Arm


def arms(
    recipe: Annotated[str, typer.Argument(help="The model whose labels are looked at.")],
    app: AppOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what readers corrected in cases the strategy picked, and in the control arm's, drawn at random.

    Examples:

        overread arms liver

        overread arms liver --json
    """
    from overread.learning.arms import compare_arms
    from overread.state.labels import labels

    with existing_database(app, database) as opened, opened.reading() as c:
        found = compare_arms(labels(c, recipe=recipe))
    if as_json:
        print_json(found.to_json())
        return
    table = Table(box=None)
    for heading in ("arm", "labels", "patients", "corrected, 1 - Dice", "median minutes"):
        table.add_column(heading, no_wrap=True)
    for arm in (found.strategy, found.control):
        table.add_row(*_row(arm))
    answers.print(table)
    answers.print(found.verdict, highlight=False)


def _row(arm: Arm) -> tuple[str, ...]:
    return (
        arm.name,
        str(arm.labels),
        str(arm.patients),
        "–" if arm.correction is None else str(arm.correction),
        "–" if arm.minutes is None else f"{arm.minutes:.1f}",
    )
