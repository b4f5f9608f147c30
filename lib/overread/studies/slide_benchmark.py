"""Throughput of an ensemble over a whole slide: full against cascade, per core, and the memory it takes.

    python -m overread.studies.slide_benchmark --slide FILE [--model FOLDER] [--edge 40000] --out FILE.json

Each pass is a process of its own, so that memory is that of one pass. Without a model, five networks of the planned
size with random weights are timed; what a cascade spares of such says nothing about trained ones. `--edge` repeats
the slide until it is that many pixels wide and high.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from overread.ensemble.slides.cascade import MOST_LOST, calibrate_cascade
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import open_slide
from overread.imaging.slides.tissue import find_tissue
from overread.studies.process_cost import measure_command
from overread.studies.slide_material import write_random_ensemble, write_tiled_up

# A cascade that the ensemble does not bring along is set on the middle of the slide itself, so wide and high.
CALIBRATION_UM = 1000.0


@dataclass(frozen=True)
class Pass:
    """One way through the slide.

    Attributes:
        tiles, seconds, tiles_per_s, spared, waited_share: see `SlideReport`.
        tiles_per_core_s: windows by processor time of the whole process.
        peak_mb: memory of the whole process.
        lost: share of the full ensemble's predictive entropy that it does not show, cell by cell.
        time_to_full: its seconds by those of the full ensemble.
    """

    name: str
    tiles: int
    seconds: float
    tiles_per_s: float
    tiles_per_core_s: float
    spared: float
    waited_share: float
    peak_mb: float
    lost: float
    time_to_full: float


def compare(
    slide: Path, model: Path, cascade: float, work: Path, options: Sequence[str], threads: int
) -> list[Pass]:
    """Measure the full ensemble and the cascade, one after the other.

    Args:
        options: handed to `slide_once`.
        threads: of the members' arithmetic; readers have their own.
    """
    passes: list[Pass] = []
    maps: list[SlideMaps] = []
    for name, own in (("full", []), (f"cascade {cascade:.3g} nat", ["--cascade", str(cascade)])):
        file = work / "maps.npz"
        command = [sys.executable, "-m", "overread.studies.slide_once", str(slide), str(model), str(file)]
        command += [*options, "--threads", str(threads), *own]
        cost = measure_command(command, {"OMP_NUM_THREADS": str(threads)})
        report = json.loads(cost.output.splitlines()[-1])
        maps.append(SlideMaps.load(file))
        passes.append(
            Pass(
                name=name,
                tiles=report["tiles"],
                seconds=report["seconds"],
                tiles_per_s=report["tiles_per_s"],
                tiles_per_core_s=report["tiles"] / cost.cpu_s,
                spared=report["spared"],
                waited_share=report["waited_share"],
                peak_mb=cost.peak_mb,
                lost=lost_doubt(maps[0], maps[-1]),
                time_to_full=report["seconds"] / passes[0].seconds if passes else 1.0,
            )
        )
    return passes


def lost_doubt(full: SlideMaps, other: SlideMaps) -> float:
    """Share of the full ensemble's predictive entropy that the other maps do not show; cells with tissue."""
    here, there = (maps.maps["predictive_entropy"][full.known].astype(np.float64) for maps in (full, other))
    return float(np.maximum(here - there, 0).sum() / max(here.sum(), np.finfo(np.float64).tiny))


def table_of(passes: Sequence[Pass], title: str) -> Table:
    """What people look at."""
    table = Table(title=title)
    for heading in (
        "members",
        "windows",
        "s",
        "windows/s",
        "per core s",
        "spared",
        "doubt lost",
        "time to full",
        "waited",
        "peak MB",
    ):
        table.add_column(heading, justify="left" if heading == "members" else "right")
    for one in passes:
        table.add_row(
            one.name,
            str(one.tiles),
            f"{one.seconds:.1f}",
            f"{one.tiles_per_s:.2f}",
            f"{one.tiles_per_core_s:.2f}",
            f"{one.spared:.0%}",
            f"{one.lost:.2%}",
            f"{one.time_to_full:.2f}",
            f"{one.waited_share:.1%}",
            f"{one.peak_mb:.0f}",
        )
    return table


def threshold_for(model: Path, slide: Path) -> float:
    """The ensemble's own cascade, or one that is set on the middle of the slide."""
    ensemble = load_ensemble(model)
    if ensemble.calibration.cascade is not None:
        return ensemble.calibration.cascade.threshold
    with open_slide(slide) as opened:
        tissue = find_tissue(opened)
        centre = [n // 2 for n in reversed(tissue.mask.shape)]
        reach = max(1, round(CALIBRATION_UM / tissue.cell.um / 2))
        x, y = (max(0, n - reach) for n in centre)
        middle = np.zeros_like(tissue.mask)
        middle[y : y + 2 * reach, x : x + 2 * reach] = True
        return calibrate_cascade(
            ensemble, [opened], MOST_LOST, tissues=[replace(tissue, mask=tissue.mask & middle)]
        ).threshold


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="an ensemble's folder; random networks otherwise")
    parser.add_argument("--edge", type=int, help="repeat the slide up to so many pixels")
    parser.add_argument("--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="level-0 pixels")
    parser.add_argument("--cascade", type=float, help="threshold in nat; the ensemble's own otherwise")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--threads", type=int, default=1, help="threads of the members' arithmetic")
    parser.add_argument("--out", type=Path, help="also write all values to this file, as JSON")
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 130))
    with tempfile.TemporaryDirectory(prefix="overread-slide-") as folder:
        work = Path(folder)
        slide, model = arguments.slide, arguments.model
        if model is None:
            model = work / "model"
            write_random_ensemble(model)
        if arguments.edge is not None:
            console.print(f"Writing a slide of {arguments.edge} x {arguments.edge} pixels ...")
            with open_slide(slide) as source:
                write_tiled_up(work / "large.tif", source, arguments.edge)
            slide = work / "large.tif"
        cascade = arguments.cascade if arguments.cascade is not None else threshold_for(model, slide)
        options = ["--device", arguments.device, "--batch", str(arguments.batch)]
        options += ["--workers", str(arguments.workers)]
        if arguments.region is not None:
            options += ["--region", *(str(number) for number in arguments.region)]
        passes = compare(slide, model, cascade, work, options, arguments.threads)
    title = f"{arguments.slide.name}, {arguments.model.name if arguments.model else 'random networks'}"
    console.print(table_of(passes, title))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(one) for one in passes], indent=2) + "\n")


if __name__ == "__main__":
    main()
