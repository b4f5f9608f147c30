"""`overread preference`: what is remembered of the clinicians' habits, for them to see, take along and forget."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    DeviceOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    chosen_device,
    existing_database,
    print_json,
    progress_bar,
    remarks,
)

preference = typer.Typer(
    no_args_is_help=True,
    help="What was learnt about the clinicians' habits: see it, take it along, forget it.",
)

PersonArgument = Annotated[str, typer.Argument(help="Client id or user name, as `show` lists it.")]
RecipeOption = Annotated[
    str | None, typer.Option("--model", help="Only for this model. [default: all]", show_default=False)
]
PurposeOption = Annotated[
    str | None, typer.Option(help="Only for this purpose. [default: all]", show_default=False)
]


@preference.command()
def show(
    person: Annotated[
        str | None, typer.Argument(help="Only of this person. [default: all]", show_default=False)
    ] = None,
    model: RecipeOption = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is known of whom: from how many accepted cases, and what it comes to.

    Examples:

        overread preference show

        overread preference show anna --json
    """
    from overread.learning.preferences import Preferences

    with existing_database(app, database) as opened:
        rows = Preferences(opened).show(person, model)
    if as_json:
        print_json(rows)
        return
    if not rows:
        answers.print("Nothing is remembered of anybody." if person is None else "Nothing is remembered.")
        return
    table = Table(box=None)
    for heading in ("person", "model", "purpose", "structure", "cases", "usually", "since"):
        table.add_column(heading, no_wrap=heading != "usually")
    for row in rows:
        table.add_row(
            escape(row["person"]),
            escape(row["recipe"]),
            escape(row["purpose"]) or "–",
            escape(row["structure"]),
            str(row["cases"]),
            row["in_words"],
            datetime.fromtimestamp(row["updated_at"]).astimezone().isoformat(" ", "minutes")[:16],
        )
    answers.print(table)


@preference.command()
def export(
    person: PersonArgument,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File to write. [default: stdout]", show_default=False),
    ] = None,
    model: RecipeOption = None,
    purpose: PurposeOption = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """All that is kept of somebody as JSON, with the accepted masks that it was learnt from.

    Examples:

        overread preference export anna --out anna.json
    """
    from overread.learning.preferences import Preferences

    with existing_database(app, database) as opened:
        kept = Preferences(opened).export(person, model, purpose)
    if out is None:
        print_json(kept)
        return
    out.write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n")
    told = {"file": str(out), **{name: len(rows) for name, rows in kept.items()}}
    if as_json:
        print_json(told)
        return
    answers.print(
        f"{told['preferences']} preferences and {told['examples']} cases are in {out}", markup=False
    )


@preference.command()
def reset(
    person: PersonArgument,
    model: RecipeOption = None,
    purpose: PurposeOption = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget somebody's habits. Accepted labels stay; they are the clinic's.

    Examples:

        overread preference reset anna

        overread preference reset anna --model liver --purpose radiotherapy
    """
    from overread.learning.preferences import Preferences

    with existing_database(app, database) as opened:
        cases = Preferences(opened).reset(person, time.time(), model, purpose, actor="overread preference")
    if as_json:
        print_json({"person": person, "model": model, "purpose": purpose, "cases": cases})
        return
    answers.print(f"What {person} taught with {cases} cases is forgotten.", markup=False, highlight=False)


@preference.command()
def replay(
    recipe: Annotated[str, typer.Argument(metavar="MODEL", help="Name under which the model is served.")],
    studies: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the images, or slides.")
    ],
    device: DeviceOption = "auto",
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring everybody's habits over to the champion in service, from the masks they accepted.

    After a retraining the parts of a model mean other things; what somebody accepted stays what it was.

    Examples:

        overread preference replay liver --studies ~/studies
    """
    from overread.domain.slides import PatchLocation
    from overread.imaging.slides.slide import find_slides
    from overread.imaging.volumes import Volume, read_volume
    from overread.learning.patches import read_patch
    from overread.learning.preferences import Preferences
    from overread.learning.process import images_below
    from overread.meduhip.storage import load_reader

    reader = load_reader(champion_store(app, models).current(recipe), chosen_device(device))
    files, um_per_px = images_below(studies), reader.plan.um_per_px
    slides = {} if um_per_px is None else find_slides(studies).slides

    def read_image(case: str) -> Volume | None:
        place = PatchLocation.parse(case)
        if um_per_px is not None and place is not None and place.slide in slides:
            return read_patch(slides[place.slide], place, um_per_px)
        return read_volume([files[case]]) if case in files else None

    with existing_database(app, database) as opened, progress_bar() as bar:
        task = bar.add_task("replaying accepted masks", total=1)
        done = Preferences(opened).replay(
            recipe, reader, read_image, time.time(), lambda share: bar.update(task, completed=share)
        )
        bar.update(task, completed=1)
    if as_json:
        print_json({"model": recipe, "people": done.people, "cases": done.cases, "missing": done.missing})
        return
    answers.print(
        f"{done.cases} cases of {len(done.people)} people were replayed.", markup=False, highlight=False
    )
    if done.missing:
        remarks.print(f"Without their image, and left waiting: {', '.join(done.missing)}", markup=False)
