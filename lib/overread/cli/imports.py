"""`overread import-nnunet` and `overread import-bundle`: networks that were trained elsewhere become members."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overread.cli.console import (
    AppOption,
    DeviceOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    chosen_device,
    print_json,
    waiting,
)
from overread.cli.train import (
    calibration_summary,
    print_calibration,
    problems_told,
    run_calibration,
    sound_dataset,
)

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore

NameOption = Annotated[str, typer.Option(help="Name under which the model will be served.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Labelled cases (nnU-Net v2's raw layout) that the model has not seen: its doubt is calibrated on "
        "them. Without, the model has no calibrated doubt bands.",
        show_default=False,
    ),
]


def import_nnunet(
    results_dir: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="A trained configuration, such as nnUNetTrainer__nnUNetPlans__3d_fullres, with its fold_* folders.",
        ),
    ],
    name: NameOption,
    folds: Annotated[
        str,
        typer.Option(help="Folds to take, such as 0,1,2; `available` takes every fold that is trained."),
    ] = "available",
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of each fold to take.")
    ] = "checkpoint_final.pth",
    data: DataOption = None,
    device: DeviceOption = "auto",
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the folds of a trained nnU-Net v2 model the members of an ensemble, and put it into service.

    Nothing is trained or changed in RESULTS_DIR. Needs the package nnunetv2.

    Examples:

        overread import-nnunet nnUNet_results/Dataset501_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres --name liver

        overread import-nnunet RESULTS --name liver --folds 0,1,2 --data Dataset777_Heldout
    """
    from overread.ensemble.nnunet import import_nnunet as make_members

    chosen = _folds(folds)
    options: dict[str, Any] = {} if chosen is None else {"folds": chosen}

    def fill(target: Path) -> None:
        make_members(results_dir, name, target, checkpoint=checkpoint, **options)

    _take_in(fill, name, champion_store(app, models), data, chosen_device(device), as_json)


def _take_in(
    fill: Callable[[Path], Any],
    name: str,
    store: ChampionStore,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Import into a folder beside the champions, check that it loads, calibrate it, publish it, tell."""
    from overread.ensemble.storage import load_ensemble
    from overread.learning.champions import checked_recipe_name

    checked_recipe_name(name)
    with problems_told(as_json):
        dataset = sound_dataset(data) if data else None
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=store.root) as temporary:
        folder = Path(temporary) / "ensemble"
        with waiting(f"Importing {name}"):
            fill(folder)
            members = len(load_ensemble(folder, device).members)
        calibration = None
        if dataset is not None:
            _declare_unseen(folder, [case.id for case in dataset.cases], members)
            calibration = run_calibration(folder, dataset, device)
        published = store.publish(name, folder)
    answer = {
        "model": name,
        "champion": published.name,
        "folder": str(published),
        "members": members,
        "calibration": calibration_summary(calibration),
    }
    if as_json:
        print_json(answer)
        return
    answers.print(f"{name} has {members} members; champion {published}", markup=False, soft_wrap=True)
    print_calibration(answer["calibration"])


def _declare_unseen(folder: Path, cases: list[str], members: int) -> None:
    """Write into the description that no member has learned from these cases, which the caller vouches for."""
    from overread.ensemble.storage import read_description, write_description

    description = read_description(folder)
    plan = {**description["plan"], "held_out": [cases] * members}
    write_description(folder, {**description, "plan": plan})


def _folds(text: str) -> list[int | str] | None:
    if text == "available":
        return None
    folds: list[int | str] = []
    for part in text.split(","):
        fold = part.strip()
        if fold != "all" and not fold.isdigit():
            raise typer.BadParameter(f"--folds {text!r} should be fold numbers such as 0,1,2, or `available`")
        folds.append(int(fold) if fold.isdigit() else fold)
    return folds


def import_bundle() -> None:
    """placeholder."""
