"""`overread import-nnunet` and `overread import-bundle`: networks that were trained elsewhere become members."""

from __future__ import annotations

import json
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


def import_bundle(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A MONAI bundle's folder, or a TorchScript file (.ts, .pt).")
    ],
    name: NameOption,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the output channels, background first: background,spleen.", show_default=False
        ),
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Names of the image channels: CT, or T1,T2.", show_default=False)
    ] = None,
    patch: Annotated[
        str | None, typer.Option(help="Window size in the network's voxels: 96,96,96.", show_default=False)
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="The network's voxel size in mm: 1.5,1.5,2.", show_default=False)
    ] = None,
    intensity: Annotated[
        str | None,
        typer.Option(
            help="What is done to the intensities: a JSON list of MONAI transforms as in a bundle's configuration; "
            "[] for nothing.",
            show_default=False,
        ),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            help="Where the network's axes run to. [default: the bundle's, or RAS]", show_default=False
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=1, max=8, help="Members: the image as it is, then mirrored in different ways.")
    ] = 4,
    data: DataOption = None,
    device: DeviceOption = "auto",
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a MONAI bundle or a TorchScript file an ensemble whose members are test-time augmentations.

    What a bundle says about itself need not be given; a TorchScript file mostly says nothing. Mirror images
    know less about doubt than members that were trained independently. A bundle's configuration may run Python
    code: import only bundles that you trust.

    Examples:

        overread import-bundle spleen_ct_segmentation/ --name spleen

        overread import-bundle net.ts --name spleen --classes background,spleen --channels CT --patch 96,96,96
        --spacing 1.5,1.5,2 --intensity '[]'
    """
    from overread.ensemble.bundle import import_bundle as make_members

    given = {
        "classes": _list(classes, str, "--classes"),
        "channels": _list(channels, str, "--channels"),
        "patch": _list(patch, int, "--patch"),
        "spacing_mm": _list(spacing, float, "--spacing"),
        "intensity": _transforms(intensity),
        "orientation": orientation,
        "draws": draws,
    }

    def fill(target: Path) -> None:
        make_members(path, name, target, **given)  # type: ignore[arg-type]

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
    answers.print(
        f"{name} has {members} {'member' if members == 1 else 'members'}; champion {published}",
        markup=False,
        soft_wrap=True,
    )
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


def _list(text: str | None, kind: type, option: str) -> list[Any] | None:
    """`96,96,96` as a list. Raises typer.BadParameter where an entry is not of that kind."""
    if text is None:
        return None
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r} should be numbers separated by commas") from error


def _transforms(text: str | None) -> list[dict[str, Any]] | None:
    if text is None:
        return None
    try:
        steps = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--intensity is not valid JSON: {error}") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise typer.BadParameter(
            "--intensity should be a JSON list of transforms, each an object with `_target_`"
        )
    return steps
