"""`overread central`: where the data are that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from overread.cli.console import (
    AppOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    print_json,
    waiting,
)


def central(
    recipe: Annotated[str, typer.Argument(help="Name under which the model is served.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="The data that `overread train` was given."),
    ],
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where a model's training data are: retraining repeats them, and judges on those that were held out.

    `overread train` writes this down by itself. It is needed for a model that an earlier version trained, and
    where the data were moved.

    Examples:

        overread central liver --data nnUNet_raw/Dataset501_Liver
    """
    from overread.learning.training_set import locate_central

    champion = champion_store(app, models).current(recipe)
    with waiting(f"Reading the files in {data}"):
        found = locate_central(champion, data)
    if as_json:
        print_json(
            {
                "model": recipe,
                "folder": str(found.folder),
                "training": len(found.training),
                "protected": len(found.protected),
            }
        )
        return
    answers.print(
        f"{recipe} learns from {len(found.training)} cases in {found.folder} and is judged on "
        f"{len(found.protected) or 'folds of them'}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
