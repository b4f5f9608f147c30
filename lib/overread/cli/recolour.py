"""`overread recolour`: pictures of slides in one laboratory's colours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from overread.cli.console import JsonOption, answers, print_json, progress_bar


def recolour(
    data: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="Pictures cut from slides, in nnU-Net v2's raw layout."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="New folder for the recoloured ones.")],
    assumed_um_per_px: Annotated[
        float, typer.Option(min=0.01, help="Pixel size of slides that do not tell theirs, in µm.")
    ] = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Bring all pictures of a data set to the mean colours of its slides.

    A model that `overread train` makes of the copy sees every slide, whoever stained it, in these colours: when it
    answers, when it looks for what to ask, and when it learns from accepted patches. Nobody has to label anything for
    that. `dataset.json` should name the slides (`slides`); otherwise a patient's pictures stand for the slide. Name the
    centres in `patients.csv`, here and beside the slides: a centre's colours are the mean over its slides.

    Examples:

        overread recolour nnUNet_raw/Dataset502_Tumour nnUNet_raw/Dataset503_TumourRecoloured
    """
    from overread.domain import PixelSize
    from overread.imaging.patients import FILE as PATIENTS
    from overread.imaging.slides.recolouring import recolour_dataset

    with progress_bar() as bar:
        task = bar.add_task("recolouring", total=1)
        made = recolour_dataset(
            data,
            out,
            PixelSize(assumed_um_per_px),
            lambda done, of: bar.update(task, completed=done / of),
        )
    pictures = len(made.dataset.cases)
    if as_json:
        told = {"pictures": pictures, "centres": made.centres, "alone": made.alone}
        print_json({"folder": str(out), **told, "colours": made.dataset.colours})
        return
    lines = [f"{pictures} pictures in one laboratory's colours in {out}"]
    if made.centres:
        lines.append(f"Measured on the slides of {', '.join(made.centres)}")
    if made.alone:
        lines.append(
            f"{made.alone} pictures are of no centre that {PATIENTS} names: each of their slides was measured alone, "
            "which also measures how much tumour it holds"
        )
    for line in lines:
        answers.print(line, markup=False, soft_wrap=True)
