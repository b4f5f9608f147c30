"""`overread train`: a model from a folder of labelled cases."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
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
from overread.cli.rated import AUTO, LayoutOption, LayoutOptionsOption

if TYPE_CHECKING:
    from overread.ensemble.ensemble import Calibration
    from overread.ensemble.slides.validation import CascadeFound
    from overread.ensemble.training import TrainingProgress
    from overread.imaging.dataset import BrokenDatasetError, Dataset
    from overread.learning.champions import ChampionStore

WORK = ".training"


class ModelKind(StrEnum):
    """What is trained."""

    ensemble = "ensemble"
    meduhip = "meduhip"


class Scheme(StrEnum):
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
            help="Labelled cases in nnU-Net v2's raw layout: dataset.json, imagesTr/, labelsTr/. For `meduhip` also "
            "cases that several people labelled, in any layout that is known.",
        ),
    ],
    model: Annotated[
        ModelKind | None,
        typer.Option(
            help="`ensemble`: several networks whose disagreement is shown; `meduhip`: one that offers several "
            "plausible segmentations and follows the clinician. [default: the recipe's, ensemble]",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = AUTO,
    option: LayoutOptionsOption = None,
    members: Annotated[
        int | None,
        typer.Option(min=1, help="Networks to train. [default: the recipe's, 5]", show_default=False),
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
        int | None,
        typer.Option(
            min=1,
            help="Training steps of each member. [default: 2000 on the CPU, 50000 on a GPU, for `meduhip` 1500 and "
            "20000; as many as --minutes allows where that is given]",
            show_default=False,
        ),
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
            help="Share of the cases kept from training, to calibrate the doubt; only for `deep`. [default: 0.2]",
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
        typer.Option(
            help="Folder for checkpoints and prepared cases, emptied at the end. [default: .training/RECIPE beside "
            "the champions]",
            show_default=False,
        ),
    ] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a model from labelled cases, calibrate its doubt, and put it into service.

    All cases are read and checked first; what is wrong with them is told in one table and nothing is trained.
    A training that was interrupted resumes when the same command is given again. The server takes the new
    champion from the next request on; earlier ones are kept beside it.

    Examples:

        overread train liver --data nnUNet_raw/Dataset501_Liver

        overread train liver --data Dataset501_Liver --members 3 --minutes 60 --device cuda

        overread train cup --model meduhip --data REFUGE2 --option structure=cup
    """
    from overread.cli.teach import learn_meduhip
    from overread.learning.champions import checked_recipe_name
    from overread.recipes import recipe_named

    store = champion_store(app, models)
    kind = model or ModelKind(recipe_named(checked_recipe_name(recipe)).model)
    if kind is ModelKind.meduhip and (members is not None or scheme is not None):
        raise typer.BadParameter("a MedUHIP model has no members: leave out --members and --scheme")
    if kind is ModelKind.ensemble and (layout != AUTO or option):
        raise typer.BadParameter(
            "--layout and --option are about cases that several people labelled: add --model meduhip"
        )
    asked: dict[str, Any] = {
        "iterations": iterations,
        "minutes": minutes,
        "validation_share": validation_share,
        "seed": seed,
        "device": device,
        "restart": restart,
    }
    with problems_told(as_json):
        if kind is ModelKind.meduhip:
            answer = learn_meduhip(recipe, data, store, work, layout=layout, option=option, **asked)
        else:
            answer = learn(
                recipe, data, store, work, members=members, scheme=scheme and scheme.value, **asked
            )
    if as_json:
        print_json(answer)
        return
    answers.print(
        f"Champion {answer['champion']} of {recipe} is in {answer['folder']}", markup=False, soft_wrap=True
    )
    print_calibration(answer["calibration"])
    if answer.get("cascade"):
        answers.print(answer["cascade"], highlight=False)


def learn(
    name: str,
    data: Path,
    store: ChampionStore,
    work: Path | None = None,
    *,
    members: int | None = None,
    scheme: str | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    validation_share: float | None = None,
    seed: int = 0,
    device: str = "auto",
    restart: bool = False,
) -> dict[str, Any]:
    """Train, calibrate and publish, with progress bars; None leaves a choice to the recipe.

    Returns:
        `model`, `champion`, `folder`, `cases`, `members`, `calibration` as plain JSON; `cascade`: for slides, in words
        whether all members are always asked and what that spares, None for others.

    Raises:
        BrokenDatasetError: cases that cannot be trained on; nothing was trained.
        BadInputError: options that do not fit, or the work folder holds another training.
    """
    from overread.ensemble.storage import read_description
    from overread.ensemble.training import TrainingOptions, train_ensemble
    from overread.imaging.dataset import read_dataset
    from overread.learning.central import protected_of, remember_central
    from overread.learning.champions import checked_recipe_name
    from overread.recipes import recipe_named

    recipe = recipe_named(checked_recipe_name(name))
    chosen = chosen_device(device)
    given = {"iterations": iterations, "minutes": minutes, "validation_share": validation_share}
    options = TrainingOptions(
        members=members or recipe.members,
        scheme=scheme or recipe.scheme,  # type: ignore[arg-type]
        seed=seed,
        device=chosen,
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    dataset = read_dataset(data)
    work = work or store.root / WORK / name
    with training_bar() as report:
        folder = train_ensemble(name, dataset, work, options, recipe.plan, report, restart=restart)
    calibration = run_calibration(folder, dataset, chosen)
    cascade = find_cascade(folder, dataset, chosen)
    if calibration is not None and cascade is not None:
        calibration = replace(calibration, cascade=cascade.cascade)
    published = store.publish(name, folder)
    # The work folder is the last to go: interrupted here, the same command writes this again.
    remember_central(published.parent, data, dataset, protected_of(read_description(published)))
    shutil.rmtree(work)
    return {
        "model": name,
        "champion": published.name,
        "folder": str(published),
        "cases": len(dataset.cases),
        "members": options.members,
        "calibration": calibration_summary(calibration),
        "cascade": None if cascade is None else cascade.words,
    }


@contextmanager
def training_bar() -> Iterator[Callable[[TrainingProgress], None]]:
    """A progress bar a stage; yields what a training reports to."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def report(now: TrainingProgress) -> None:
            if now.stage not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, completed=1)
                tasks[now.stage] = bar.add_task(now.stage, total=1)
            bar.update(tasks[now.stage], completed=now.share, description=_in_words(now))

        yield report


def sound_dataset(data: Path) -> Dataset:
    """Labelled cases without any problem. Raises BrokenDatasetError with all problems."""
    from overread.imaging.dataset import ensure_sound, read_dataset

    dataset = read_dataset(data)
    with progress_bar() as bar:
        task = bar.add_task("checking")
        ensure_sound(dataset, lambda done, total: bar.update(task, completed=done, total=total))
    return dataset


def run_calibration(folder: Path, dataset: Dataset, device: str) -> Calibration | None:
    """Calibrate an ensemble folder on the cases that it names as held out, with a progress bar."""
    from overread.ensemble.calibrate import calibrate
    from overread.ensemble.compute import leave_a_core

    leave_a_core()
    with progress_bar() as bar:
        task = bar.add_task("calibrating the doubt", total=1)
        calibration = calibrate(
            folder, dataset, device=device, progress=lambda share: bar.update(task, completed=share)
        )
        bar.update(task, completed=1)
    return calibration


def find_cascade(folder: Path, dataset: Dataset, device: str) -> CascadeFound | None:
    """Set the cascade of an ensemble for slides on those that no member learnt from, with a progress bar."""
    from overread.ensemble.slides.validation import calibrate_on_slides

    if dataset.um_per_px is None:
        return None
    with progress_bar() as bar:
        task = bar.add_task("setting the cascade", total=1)
        found = calibrate_on_slides(
            folder, dataset, device=device, progress=lambda share: bar.update(task, completed=share)
        )
        bar.update(task, completed=1)
    return found


def calibration_summary(calibration: Calibration | None) -> dict[str, Any] | None:
    """Plain JSON of what held-out cases said; None where there were none."""
    return None if calibration is None else asdict(calibration)


def print_calibration(summary: dict[str, Any] | None) -> None:
    """What doubt is worth, measure by measure."""
    if summary is None:
        remarks.print("No case was held out: the model has no calibrated doubt bands.")
        return
    answers.print(
        f"Calibrated: temperature {summary['temperature']:.2f}, calibration error "
        f"{summary['ece_before']:.4f} before, {summary['ece_after']:.4f} after.",
        highlight=False,
    )
    table = Table("measure", "`doubt: high` holds", "in", "with `doubt: moderate`", "in")
    for name, band in summary["bands"].items():
        table.add_row(
            name,
            f"{band['high_error_share']:.0%} of wrong voxels",
            f"{band['high_voxel_share']:.1%} of all",
            f"{band['moderate_error_share']:.0%} of wrong voxels",
            f"{band['moderate_voxel_share']:.1%} of all",
        )
    answers.print(table)


@contextmanager
def problems_told(as_json: bool) -> Iterator[None]:
    """Turn a BrokenDatasetError into one table (or JSON) and exit code 1."""
    from overread.imaging.dataset import BrokenDatasetError

    try:
        yield
    except BrokenDatasetError as error:
        _tell_problems(error, as_json)
        raise typer.Exit(1) from error


def _tell_problems(error: BrokenDatasetError, as_json: bool) -> None:
    if as_json:
        print_json({"problems": [asdict(problem) for problem in error.problems]})
        return
    table = Table("case", "file", "problem", title="Nothing was trained: these cases need mending")
    for problem in error.problems:
        table.add_row(escape(problem.case or "–"), escape(problem.file), escape(problem.what))
    remarks.print(table)


def _in_words(now: Any) -> str:
    if now.stage != "training":
        return {
            "checking": "checking the cases",
            "measuring": "measuring spacings and intensities",
            "preparing": "preparing cases",
        }[now.stage]
    what = "training" if now.members == 1 else f"training {now.members} members"
    words = f"{what}, step {now.iteration}"
    if now.loss is not None:
        words += f", loss {now.loss:.3f}"
    if now.seconds_left is not None:
        words += f", {now.seconds_left / 60:.1f} min left"
    return words
