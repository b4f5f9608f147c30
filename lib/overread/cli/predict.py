"""`overread predict`: a champion on image files, without a server."""

from __future__ import annotations

import json
import re
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
    progress_bar,
)

if TYPE_CHECKING:
    from overread.ensemble.ensemble import Ensemble
    from overread.ensemble.prediction import Prediction

SUMMARY = "summary.json"
# nnU-Net's raw layout numbers the channels of a case: case_0000.nii.gz, case_0001.nii.gz.
CHANNEL_NUMBER = re.compile(r"_(\d{4})$")


def predict(
    name: Annotated[str, typer.Argument(help="Name of the model, as `overread models` lists it.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files or folders of them. Files of one case with several channels end in _0000, _0001, …",
        ),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to; made where it is missing.")],
    maps: Annotated[
        bool,
        typer.Option(
            "--maps", help="Also write the uncertainty maps and the mean probabilities (float NIfTI)."
        ),
    ] = False,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="Uncertainty map to compute; may be repeated. [default: the recipe's]", show_default=False
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(min=1, help="Ask only the first so many members. [default: all]", show_default=False),
    ] = None,
    cascade: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Ask the other members only in windows where the first one's 1 - max p reaches this, such as 0.1. "
            "Faster, and doubt that the first member does not feel is lost. [default: ask all everywhere]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    app: AppOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment images and write where the model doubts.

    For each case, on the exact grid of its image: CASE.nii.gz (label map) and, with --maps,
    CASE.MEASURE.nii.gz (uncertainty) and CASE.probability-CLASS.nii.gz; summary.json tells volumes, scores
    and times. A model of recoloured pictures (`overread recolour`) sees each picture brought to its colours.

    Examples:

        overread predict liver_phantom scan.nii.gz --out results

        overread predict brain t1_0000.nii.gz t1_0001.nii.gz --out results --maps --measure mutual_information
    """
    from overread.ensemble.compute import leave_a_core
    from overread.ensemble.prediction import predict as predict_volume
    from overread.ensemble.storage import load_ensemble
    from overread.imaging.slides.normalised import picture_in_colours
    from overread.imaging.volumes import read_volume
    from overread.recipes import recipe_named

    cases = group_channels(images)
    chosen = chosen_device(device)
    leave_a_core()
    folder = champion_store(app, models).current(name)
    ensemble = load_ensemble(folder, chosen)
    measures = tuple(measure or [recipe_named(name).measure])
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress_bar() as progress:
        task = progress.add_task(name, total=len(cases))
        for number, (case, files) in enumerate(cases.items()):
            progress.update(task, description=f"{name}: {case}")
            volume = read_volume(files)
            if ensemble.reference is not None:
                volume = picture_in_colours(volume, ensemble.reference)
            prediction = predict_volume(
                ensemble,
                volume,
                measures=measures,
                members=members,
                cascade=cascade,
                device=chosen,
                progress=lambda share, done=number: progress.update(task, completed=done + share),
            )
            written = write_prediction(out, case, ensemble, prediction, maps=maps)
            rows.append(_summary(case, files, ensemble, prediction, written))
            progress.update(task, completed=number + 1)
    summary = {
        "model": name,
        "champion": folder.name,
        "device": chosen,
        "measures": list(measures),
        "cases": rows,
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    if as_json:
        print_json(summary)
    else:
        _print(summary, out)


def group_channels(images: list[Path]) -> dict[str, list[Path]]:
    """Cases by name, each with its channel files in order; folders stand for the images in them.

    Raises:
        NotFoundError: a file is missing, or a folder holds no image.
        BadInputError: two cases share a name, or a channel is missing from the numbers `_0000`, `_0001`, ….
    """
    from overread.domain import BadInputError, NotFoundError
    from overread.imaging.volumes import READABLE_SUFFIXES

    files: list[Path] = []
    for image in images:
        if not image.exists():
            raise NotFoundError(f"{image} does not exist")
        inside = [image]
        if image.is_dir():
            inside = sorted(path for path in image.iterdir() if path.name.lower().endswith(READABLE_SUFFIXES))
            if not inside:
                raise NotFoundError(f"{image} holds no image; known are {', '.join(READABLE_SUFFIXES)}")
        files += inside
    cases: dict[str, dict[int, Path]] = {}
    for file in files:
        stem = _stem(file, READABLE_SUFFIXES)
        numbered = CHANNEL_NUMBER.search(stem)
        case, channel = (stem[: numbered.start()], int(numbered[1])) if numbered else (stem, 0)
        known = cases.setdefault(case, {})
        if channel in known:
            raise BadInputError(f"{known[channel]} and {file} would both be written as case {case!r}")
        known[channel] = file
    for case, channels in cases.items():
        if sorted(channels) != list(range(len(channels))):
            numbers = ", ".join(f"_{channel:04d}" for channel in sorted(channels))
            raise BadInputError(f"case {case!r} has the channels {numbers}; they must count up from _0000")
    return {case: [channels[number] for number in sorted(channels)] for case, channels in cases.items()}


def write_prediction(
    out: Path, case: str, ensemble: Ensemble, prediction: Prediction, *, maps: bool
) -> dict[str, str]:
    """Write the label map and, on demand, maps and probabilities. Returns what each file is, by name."""
    from overread.imaging.volumes import write_nifti

    written = {f"{case}.nii.gz": "labels"}
    write_nifti(out / f"{case}.nii.gz", prediction.labels, prediction.grid)
    if maps:
        for measure, uncertainty in prediction.maps.items():
            written[f"{case}.{measure}.nii.gz"] = f"{measure} in {uncertainty.unit}"
            write_nifti(
                out / f"{case}.{measure}.nii.gz", uncertainty.values.float().cpu().numpy(), prediction.grid
            )
        for label, probability in zip(ensemble.classes, prediction.probabilities, strict=True):
            file = f"{case}.probability-{re.sub(r'[^A-Za-z0-9_-]+', '_', label)}.nii.gz"
            written[file] = f"mean probability of {label}"
            write_nifti(out / file, probability.float().cpu().numpy(), prediction.grid)
    return written


def _summary(
    case: str, files: list[Path], ensemble: Ensemble, prediction: Prediction, written: dict[str, str]
) -> dict[str, Any]:
    import numpy as np

    counts = np.bincount(prediction.labels.ravel(), minlength=len(ensemble.classes))
    unit = "ml" if len(prediction.grid.shape) == 3 else "mm2"
    scale = prediction.grid.voxel_volume_mm3 / (1000 if unit == "ml" else 1)
    return {
        "case": case,
        "images": [str(file) for file in files],
        f"size_{unit}": {
            label: round(float(count * scale), 4)
            for label, count in zip(ensemble.classes[1:], counts[1:], strict=True)
        },
        "mean_uncertainty": {
            name: float(shown.values.float().mean()) for name, shown in prediction.maps.items()
        },
        "scores": {score: float(number) for score, number in prediction.scores.items()},
        "members_spared": prediction.members_spared,
        "timing_s": {stage: round(seconds, 3) for stage, seconds in prediction.timing_s.items()},
        "files": written,
    }


def _print(summary: dict[str, Any], out: Path) -> None:
    for row in summary["cases"]:
        unit = "ml" if "size_ml" in row else "mm2"
        facts = [
            ", ".join(f"{label} {size:.2f} {unit}" for label, size in row[f"size_{unit}"].items()),
            *(f"mean {name} {number:.4f}" for name, number in row["mean_uncertainty"].items()),
            *(f"{score} {number:.3f}" for score, number in row["scores"].items()),
            f"{row['timing_s']['total']:.1f} s",
        ]
        answers.print(f"{row['case']}: {'; '.join(facts)}", markup=False, highlight=False, soft_wrap=True)
    answers.print(f"Written to {out}, with {SUMMARY}.", markup=False, highlight=False, soft_wrap=True)


def _stem(file: Path, suffixes: tuple[str, ...]) -> str:
    for suffix in sorted(suffixes, key=len, reverse=True):
        if file.name.lower().endswith(suffix):
            return file.name[: -len(suffix)]
    return file.stem
