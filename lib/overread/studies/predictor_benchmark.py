"""Whole-process time and memory of a five-fold prediction: Overread against nnunetv2's own predictor.

Both sides are child processes that start Python, load the same folds, read the same image, predict without
mirroring on the CPU and write a label map. The sides take turns, so that a busy machine troubles both alike.
nnunetv2 gets one process each for reading and writing, which for one image is its fastest setting.

    python -m overread.studies.predictor_benchmark --results DIR --image FILE

Without arguments a tiny model is trained on synthetic volumes first; its times are mostly those of starting up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from overread.ensemble.nnunet import import_nnunet
from overread.ensemble.storage import read_description
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.studies.process_cost import ProcessCost, measure_command
from overread.studies.tiny_nnunet import make_case, train_tiny_nnunet

SYNTHETIC_SHAPE = (110, 20, 100)
NNUNET_CALL = (
    "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as run; run()"
)
DEFAULT_CASCADE = 0.05


@dataclass(frozen=True)
class Row:
    """One variant against nnunetv2.

    Attributes:
        wall_s, cpu_s, peak_mb: one value a repetition.
        wall_ratio: this variant's wall time by nnunetv2's in the same repetition.
        dice_to_full: per foreground class, against the label map in full precision; None where neither has it.
        changed_voxels: share of voxels whose label is not that of full precision.
        members_spared: share of the members' windows that the cascade left out.
    """

    name: str
    wall_s: list[float]
    cpu_s: list[float]
    peak_mb: list[float]
    wall_ratio: list[float]
    cpu_ratio: list[float]
    dice_to_full: list[float | None]
    changed_voxels: float
    members_spared: float


def compare(
    model_folder: Path, image: Sequence[Path], work: Path, *, repetitions: int, cascade: float, threads: int
) -> list[Row]:
    """Measure nnunetv2 and the variants of Overread in turns.

    Args:
        model_folder: a trained nnU-Net v2 model.
        image: one file a channel.
        work: an empty folder.
        threads: of each process's arithmetic, on both sides.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "nnUNet_def_n_proc": str(threads)}
    ensemble = import_nnunet(model_folder, "benchmark", work / "ensemble")
    description = read_description(ensemble)
    folds = [str(fold) for fold in description["plan"]["folds"]]
    source = work / "images"
    source.mkdir()
    ending = description["plan"]["dataset"]["file_ending"]
    for index, path in enumerate(image):
        shutil.copyfile(path, source / f"case_{index:04d}{ending}")
    nnunet_output = work / "nnunet"
    nnunet = [
        sys.executable,
        "-c",
        NNUNET_CALL.format(threads=threads),
        "-i",
        str(source),
        "-o",
        str(nnunet_output),
        "-m",
        str(model_folder),
    ]
    nnunet += [
        "-f",
        *folds,
        "-device",
        "cpu",
        "--disable_tta",
        "-npp",
        "1",
        "-nps",
        "1",
        "--disable_progress_bar",
    ]
    nnunet += ["-chk", description["plan"]["checkpoint"]]
    ours = [sys.executable, "-m", "overread.studies.predict_once", str(ensemble)]
    variants = {
        "full precision": ["--precision", "full"],
        "bfloat16": ["--precision", "reduced"],
        f"cascade {cascade:g}": ["--precision", "full", "--cascade", str(cascade)],
    }
    costs: dict[str, list[ProcessCost]] = {name: [] for name in ("nnunetv2", *variants)}
    labelmaps = {name: work / f"{name.replace(' ', '_')}.nii.gz" for name in variants}
    channels = [str(path) for path in sorted(source.iterdir())]
    for _ in range(repetitions):
        costs["nnunetv2"].append(measure_command(nnunet, environment))
        for name, options in variants.items():
            costs[name].append(
                measure_command([*ours, *channels, str(labelmaps[name]), *options], environment)
            )
    labels = {name: read_labelmap(path)[0] for name, path in labelmaps.items()}
    labels["nnunetv2"] = read_labelmap(nnunet_output / f"case{ending}")[0]
    classes = len(description["classes"])
    return [_row(name, costs, labels, classes) for name in costs]


def label_dice(labels: np.ndarray, reference: np.ndarray, classes: int) -> list[float | None]:
    """Dice of each foreground class between two label maps; None where neither has the class."""
    values: list[float | None] = []
    for value in range(1, classes):
        a, b = labels == value, reference == value
        size = int(a.sum()) + int(b.sum())
        values.append(2 * int((a & b).sum()) / size if size else None)
    return values


def _row(name: str, costs: dict[str, list[ProcessCost]], labels: dict[str, np.ndarray], classes: int) -> Row:
    mine, theirs = costs[name], costs["nnunetv2"]
    spared = 0.0 if name == "nnunetv2" else json.loads(mine[-1].output.splitlines()[-1])["members_spared"]
    return Row(
        name=name,
        wall_s=[cost.wall_s for cost in mine],
        cpu_s=[cost.cpu_s for cost in mine],
        peak_mb=[cost.peak_mb for cost in mine],
        wall_ratio=[a.wall_s / b.wall_s for a, b in zip(mine, theirs, strict=True)],
        cpu_ratio=[a.cpu_s / b.cpu_s for a, b in zip(mine, theirs, strict=True)],
        dice_to_full=label_dice(labels[name], labels["full precision"], classes),
        changed_voxels=float((labels[name] != labels["full precision"]).mean()),
        members_spared=spared,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """Minimum, median and maximum of each quantity."""
    table = Table(title="Five-fold prediction, whole process, against nnunetv2 (min / median / max)")
    headings = (
        "variant",
        "wall s",
        "CPU s",
        "peak MB",
        "wall ratio",
        "CPU ratio",
        "Dice to full",
        "changed",
        "spared",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for row in rows:
        dice = " ".join("-" if value is None else f"{value:.4f}" for value in row.dice_to_full)
        table.add_row(
            row.name,
            _spread(row.wall_s, ".1f"),
            _spread(row.cpu_s, ".1f"),
            _spread(row.peak_mb, ".0f"),
            _spread(row.wall_ratio, ".2f"),
            _spread(row.cpu_ratio, ".2f"),
            dice,
            f"{row.changed_voxels:.2%}",
            f"{row.members_spared:.0%}",
        )
    return table


def _spread(values: Sequence[float], form: str) -> str:
    return " / ".join(format(value, form) for value in (min(values), median(values), max(values)))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help="folder of a trained nnU-Net v2 model")
    parser.add_argument("--image", type=Path, nargs="+", help="the image, one file a channel")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--cascade", type=float, default=DEFAULT_CASCADE, help="threshold of the cascade variant"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both sides")
    parser.add_argument("--json", type=Path, help="also write all values to this file")
    arguments = parser.parse_args()
    if (arguments.results is None) != (arguments.image is None):
        parser.error("give --results and --image together, or neither for a synthetic model")
    console = Console(width=max(Console().width, 150))
    with tempfile.TemporaryDirectory(prefix="overread-benchmark-") as folder:
        work = Path(folder)
        if arguments.results is None:
            console.print("Training a tiny nnU-Net model of five folds ...")
            results = train_tiny_nnunet(work / "tiny", folds=5, iterations=40)
            image, _, grid = make_case(np.random.default_rng(1), SYNTHETIC_SHAPE)
            paths = [work / "synthetic.nii.gz"]
            write_nifti(paths[0], image, grid)
        else:
            results, paths = arguments.results, arguments.image
        rows = compare(
            results,
            paths,
            work,
            repetitions=arguments.repetitions,
            cascade=arguments.cascade,
            threads=arguments.threads,
        )
    console.print(table_of(rows))
    if arguments.json is not None:
        content: list[dict[str, Any]] = [asdict(row) for row in rows]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
