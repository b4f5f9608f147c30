"""`overread train`: an ensemble from a folder of labelled cases."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from overread.cli.console import (
    AppOption,
    DeviceOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    chosen_device,
    print_json,
    progress_bar,
    remarks,
)

if TYPE_CHECKING:
    from overread.imaging.dataset import Dataset, Problem
    from overread.learning.champions import ChampionStore


class Scheme(str, Enum):
    """How members come to differ."""

    deep = "deep"
    folds = "folds"


def train(
    recipe: Annotated[str, typer.Argument(help="Name under which the model will be served.")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Labelled cases in nnU-Net v2's raw layout: dataset.json, imagesTr/, labelsTr/.",
        ),
    ],
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks to train. [default: the recipe's, 5]", show_default=False)
    ] = None,
    scheme: Annotated[
        Scheme | None,
        typer.Option(
            help="`deep`: all learn from the same cases with other seeds and orders; `folds`: cross-validation. "
            "[default: the recipe's, deep]",
            show_default=False,
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each member. [default: planned]", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Stop after this time, all members together.", show_default=False),
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of the cases kept from training, to calibrate the doubt (deep). [default: 0.2]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same split and the same start.")] = 0,
    device: DeviceOption = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an interrupted training instead of resuming it.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints and patches. [default: .training beside the champions]"),
    ] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn an ensemble from labelled cases, calibrate its doubt, and put it into service.

    All cases are read and checked first; what is wrong with them is told in one table and nothing is trained.
    A training that was interrupted resumes when the same command is given again. The new champion is served
    from the server's next start; earlier ones are kept beside it.

    Examples:

        overread train liver --data nnUNet_raw/Dataset501_Liver

        overread train liver --data Dataset501_Liver --members 3 --minutes 60 --device cuda
    """
    store = champion_store(app, models)
    answer = learn(
        recipe,
        data,
        store,
        work or store.root / ".training",
        members=members,
        scheme=scheme.value if scheme else None,
        iterations=iterations,
        minutes=minutes,
        validation_share=validation_share,
        seed=seed,
        device=device,
        restart=restart,
        as_json=as_json,
    )
    if as_json:
        print_json(answer)
        return
    answers.print(f"Champion {answer['champion']} of {recipe} is in {answer['folder']}", markup=False, soft_wrap=True)
    _print_calibration(answer["calibration"])
