"""How long a reader waits for a turn with a MedUHIP model, against the real server.

python -m overread.studies.turn_benchmark apps/radiology --turns 12

A slice of 256 x 256 pixels and a volume of 128 x 128 x 64 voxels of noise, with weights that nobody trained: how long
a turn takes does not depend on what they know. The networks are small, 16 channels at the finest level for the slice
and 12 for the volume, which a recipe gets with `meduhip={"width": 16}`; `overread train` makes 24 where none says so.
The first turn reads and encodes the image; each further one brings one more click. `--device cuda` measures on a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from overread.domain import Grid
from overread.ensemble.plan import Normalisation, Plan
from overread.imaging.volumes import write_nifti
from overread.learning.champions import ChampionStore
from overread.meduhip.mirrors import MIRRORED_AXES
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.storage import save_model
from overread.studies.asking import ask
from overread.studies.local_server import app_with_champion, local_server

SHAPES = {"slice": (256, 256, 1), "volume": (128, 128, 64)}
BACKENDS = {"slice": "unet2d", "volume": "unet3d"}
WIDTHS = {"slice": 16, "volume": 12}
STAGES = ("pre", "encode", "decode", "post")


def publish(app: Path, name: str) -> None:
    """An untrained model whose samples differ, as a champion."""
    torch.manual_seed(0)
    axes = 2 if name == "slice" else 3
    model = MedUHIP(Configuration(backend=BACKENDS[name], width=WIDTHS[name]))
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d) and not bool(part.weight.any()):
            nn.init.normal_(part.weight, std=0.5)
    one, two, three = (1,) * axes, (2,) * axes, (3,) * axes
    plan = Plan(
        spacing_mm=(1.0,) * axes,
        patch=(64,) * axes,
        batch=1,
        kernels=(three, three, three),
        strides=(one, two, two),
        features=(16, 32, 64),
        normalisation=(Normalisation("zscore"),),
        mirror_axes=tuple(range(MIRRORED_AXES[axes])),
        classes=2,
    )
    staging = app / "staging" / name
    save_model(staging, model, plan, name=name, classes=("background", "a"), channels=("image",), training={})
    ChampionStore(app / "model").publish(name, staging)


def make_studies(folder: Path) -> None:
    """For each model an image to measure with, and one before it: smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        coarse = torch.from_numpy(rng.standard_normal([1, 1, *[max(1, n // 16) for n in shape]])).float()
        voxels = nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy()
        for case in (name, f"{name}_before"):
            write_nifti(folder / f"{case}.nii.gz", 100 + 20 * voxels, Grid(shape, np.diag([-1.0, -1, 1, 1])))


def measure(url: str, name: str, case: str, turns: int) -> tuple[list[float], list[dict[str, float]]]:
    """The first turn, and then one more click a turn: seconds and the server's account of each."""
    rng = np.random.default_rng(1)
    shape = SHAPES[name]
    clicks: dict[str, list[list[int]]] = {"a": [], "background": []}
    seconds, stages = [], []
    for number in range(turns + 1):
        params = {"client_id": "reader", "label": "a", "result_extension": ".nrrd", "result_dtype": "uint8"}
        answered = ask(url, name, case, params | clicks)
        seconds.append(answered.seconds)
        stages.append(answered.facts["latencies"])
        place = [int(rng.integers(n)) for n in shape]
        clicks["background" if number % 2 else "a"].append(place)
    return seconds, stages


def table_of(measured: dict[str, tuple[list[float], list[dict[str, float]]]], title: str) -> Table:
    """One row for the first turn of each image, one for the rest."""
    table = Table(title=title)
    for column in ("image", "turn", "p50 s", "longest s", *(f"{stage} s" for stage in STAGES)):
        table.add_column(column, justify="left" if column in ("image", "turn") else "right")
    for name, (seconds, stages) in measured.items():
        shape = "x".join(str(n) for n in SHAPES[name] if n > 1)
        for when, chosen in (("first", slice(0, 1)), ("further", slice(1, None))):
            times = np.array(seconds[chosen])
            means = [np.mean([account.get(stage, 0.0) for account in stages[chosen]]) for stage in STAGES]
            cells = [f"{np.median(times):.2f}", f"{times.max():.2f}", *(f"{mean:.2f}" for mean in means)]
            table.add_row(f"{name} {shape}", when, *cells)
    return table


def main() -> None:
    """Start the server, take turns, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("app", type=Path, help="folder of our radiology app")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        app, studies = Path(scratch) / "app", Path(scratch) / "studies"
        app_with_champion(arguments.app, app)
        make_studies(studies)
        for name in SHAPES:
            publish(app, name)
        with local_server(app, studies, ["scoring", "no", "device", arguments.device]) as server:
            # Libraries load parts of themselves at the first use.
            for name in SHAPES:
                measure(server.url, name, f"{name}_before", 1)
            measured = {name: measure(server.url, name, name, arguments.turns) for name in SHAPES}
    Console().print(table_of(measured, f"{arguments.turns} turns after the first, on {arguments.device}"))


if __name__ == "__main__":
    main()
