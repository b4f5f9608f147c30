"""`overread export`: accepted labels in nnU-Net's raw layout, with where they came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from overread.cli.console import (
    AppOption,
    DatabaseOption,
    JsonOption,
    ModelsOption,
    answers,
    champion_store,
    existing_database,
    print_json,
    progress_bar,
    remarks,
)
from overread.cli.retrain import Consensus


def export(
    recipe: Annotated[str, typer.Argument(metavar="MODEL", help="The model whose labels are exported.")],
    folder: Annotated[
        Path, typer.Argument(help="New folder; nnU-Net wants a name such as Dataset001_Liver.")
    ],
    studies: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the images, with the labels below it."),
    ],
    consensus: Annotated[
        Consensus, typer.Option(help="What becomes of several readers' labels of a case.")
    ] = Consensus.latest,
    whole_only: Annotated[
        bool,
        typer.Option(
            "--whole-only",
            help="Leave out labels of a part of an image. Otherwise the rest of it is nnU-Net's class `ignore`, "
            "which `overread train` does not read.",
        ),
    ] = False,
    assumed_um_per_px: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Pixel size of slides that do not tell theirs, in µm, as the server was told.",
            show_default=False,
        ),
    ] = None,
    app: AppOption = None,
    models: ModelsOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write accepted labels and their images as a data set for nnU-Net, or for `overread train` elsewhere.

    `provenance.csv` and `provenance.json` beside it say of each label who made it and when, which champion had
    proposed, how the case was chosen, and its sha256. Labels that were withdrawn, flagged or quarantined are left out,
    and those that are not what was accepted; each is told. The images, patients and readers are named as they are here.

    Examples:

        overread export liver /data/Dataset001_Liver --studies ~/studies

        overread export liver /data/Dataset001_Liver --studies ~/studies --consensus staple --whole-only
    """
    from overread.domain.slides import PixelSize
    from overread.ensemble.storage import read_description
    from overread.imaging.slides.slide import ASSUMED
    from overread.learning.accepted import AcceptedLabels
    from overread.learning.export import export_labels
    from overread.learning.patches import PatchImages
    from overread.learning.process import ACCEPTED, images_below

    description = read_description(champion_store(app, models).current(recipe))
    um_per_px = description["plan"].get("um_per_px")
    assumed = ASSUMED if assumed_um_per_px is None else PixelSize(assumed_um_per_px)
    with (
        existing_database(app, database) as opened,
        tempfile.TemporaryDirectory() as cache,
        progress_bar() as bar,
    ):
        if um_per_px is None:
            image_of = images_below(studies).get
        else:
            image_of = PatchImages(studies, Path(cache), um_per_px, assumed).image_of
        task = bar.add_task("reading", total=1)
        exported = export_labels(
            folder,
            AcceptedLabels(studies / ACCEPTED, opened),
            recipe,
            description,
            image_of,
            consensus.value,
            whole_only,
            lambda what, share: bar.update(task, description=what, completed=share),
        )
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "cases": exported.cases,
                "labels": exported.labels,
                "left_out": exported.left_out,
            }
        )
    else:
        answers.print(
            f"{len(exported.cases)} cases of {exported.labels} labels written to {folder}",
            markup=False,
            soft_wrap=True,
        )
    for sentence in exported.left_out:
        remarks.print(f"Left out, {sentence}", style="yellow", markup=False, soft_wrap=True)
