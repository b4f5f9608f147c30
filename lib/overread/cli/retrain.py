"""`overread retrain`: one turn of the loop from the command line."""

from __future__ import annotations

import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    DeviceOption,
    JsonOption,
    ModelsOption,
    answers,
    app_folder,
    champion_store,
    chosen_device,
    database_place,
    print_json,
    progress_bar,
)
from overread.cli.versions import print_decision

if TYPE_CHECKING:
    from overread.learning.cycle import CycleProgress


class Start(StrEnum):
    """Where the members begin."""

    champion = "champion"
    scratch = "scratch"


class Consensus(StrEnum):
    """How several raters' labels of one case become one."""

    latest = "latest"
    majority = "majority"
    staple = "staple"


def retrain(
    recipe: Annotated[str, typer.Argument(metavar="MODEL", help="Name under which the model is served.")],
    studies: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder of the images, with the accepted labels below it."
        ),
    ],
    start: Annotated[
        Start, typer.Option(help="Members go on from the champion's, or begin anew.")
    ] = Start.champion,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Training time, all members together.", show_default=False),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each member.", show_default=False)
    ] = None,
    consensus: Annotated[
        Consensus, typer.Option(help="How several raters' labels of one case become one.")
    ] = Consensus.latest,
    adabn: Annotated[
        bool, typer.Option("--adabn", help="Take batch statistics from the local images alone at the end.")
    ] = False,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart",
            help="Train each step on patches of one place, so that every place is normalised by its own batch "
            "statistics; use it with --adabn.",
        ),
    ] = False,
    restained: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the central patches of slides that are shown in the colours of accepted ones.",
        ),
    ] = 0.0,
    lent: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the central patches of slides that are shown, at the most, in the colours of centres of "
            "which hardly anything but background was accepted.",
        ),
    ] = 0.0,
    assumed_um_per_px: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Pixel size of slides that do not tell theirs, in µm.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: DeviceOption = "auto",
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a challenger on the accepted labels, and let the gate decide whether it becomes the champion.

    The same as a click on Train in 3D Slicer. Ctrl-C stops it; the same command goes on from there. A running server
    takes a new champion from its next request on.

    Examples:

        overread retrain liver --studies ~/studies

        overread retrain liver --studies ~/studies --start scratch --minutes 60 --device cuda
    """
    from overread.ensemble.compute import leave_a_core
    from overread.learning.process import Request, train

    store = champion_store(app, models)
    # Where no app is, as with champions in a folder of their own, work lies beside them.
    home = store.root.parent if models else app_folder(app)
    wishes: dict[str, Any] = {
        "iterations": iterations,
        "minutes": minutes,
        "start": start.value,
        "adabn": adabn,
        "apart": apart,
        "restained": restained,
        "lent": lent,
        "seed": seed,
    }
    request = Request(
        recipe=recipe,
        models=store.root,
        studies=studies.expanduser().resolve(),
        database=str(
            database or (database_place(app, None) if not models else home / "state" / "overread.db")
        ),
        consensus=consensus.value,
        device=chosen_device(device),
        retraining={name: value for name, value in wishes.items() if value is not None},
        assumed_um_per_px=assumed_um_per_px,
    )
    store.current(recipe)
    leave_a_core()
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        with progress_bar() as bar:
            task = bar.add_task("checking the accepted labels", total=100)

            def heard(now: CycleProgress) -> None:
                bar.update(task, completed=now.epoch, description=now.message)

            decision = train(request, home / "training" / recipe, stop, heard)
            bar.update(task, completed=100)
    finally:
        signal.signal(signal.SIGINT, before)
    report = decision.to_json()
    if as_json:
        print_json({"model": recipe, "served": store.current(recipe).name, **report})
        return
    print_decision(report)
    answers.print(f"\n{store.current(recipe).name} is the champion of {recipe}.", highlight=False)
