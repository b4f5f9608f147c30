"""How long a turn's arithmetic takes, without a server round it: SAM's ViT-B and our U-Nets, on a CPU or a GPU.

    python -m overread.studies.session_benchmark --device cuda --turns 20 --out FILE.json

A slice of 256 x 256 pixels through SAM (ViT-B at 512 pixels a side, its shapes with random weights) and through the 2D
U-Net, a volume of 128 x 128 x 64 voxels through the 3D U-Net. `open` encodes the image, which is done once; a turn
takes one more click and answers it: posterior, samples, all masks, vote, candidates, clicks honoured. Weights are
random, since how long a turn takes does not depend on what they know. `turn_benchmark` measures with server, files and
HTTP.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from overread.ensemble.compute import choose_device
from overread.meduhip.mirrors import mirrors_along
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click
from overread.meduhip.session import answer, begin, click
from overread.studies.meduhip.players import ModelImage

SLICE, VOLUME = (256, 256), (128, 128, 64)
# Turns before measuring: libraries choose their kernels at the first use.
WARMING = 3


@dataclass(frozen=True)
class Row:
    """One model at one image.

    Attributes:
        open_s: seconds to encode the image.
        turn_p50_s, turn_longest_s: of a turn.
        peak_gib: GPU memory at the most; 0 on a CPU.
    """

    model: str
    image: str
    open_s: float
    turn_p50_s: float
    turn_longest_s: float
    peak_gib: float


def vit_b() -> MedUHIP:
    """MedUHIP on SAM's ViT-B."""
    return MedUHIP(Configuration(backend="sam", size="vit_b"))


def unet(backend: str, width: int) -> Callable[[], MedUHIP]:
    """MedUHIP on a U-Net whose samples differ."""

    def make() -> MedUHIP:
        model = MedUHIP(Configuration(backend=backend, width=width))
        for part in model.modules():
            if isinstance(part, nn.Conv2d | nn.Conv3d) and not bool(part.weight.any()):
                nn.init.normal_(part.weight, std=0.5)
        return model

    return make


MODELS: dict[str, tuple[Callable[[], MedUHIP], tuple[int, ...]]] = {
    "sam ViT-B": (vit_b, SLICE),
    "unet2d": (unet("unet2d", 16), SLICE),
    "unet3d": (unet("unet3d", 12), VOLUME),
}


@torch.no_grad()
def measure(name: str, turns: int, device: torch.device) -> Row:
    """Open an image of noise and take turns at it."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().eval().to(device)
    model.mirrors = mirrors_along(range(len(shape)), len(shape))
    image = torch.randn(1, 1, *shape, device=device)
    rng = np.random.default_rng(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    opening, seconds = 0.0, []
    for _ in range(2):
        started = now()
        opened = ModelImage(model, model.encode(image))
        opening = now() - started
    session = begin(model, name, "untrained")
    given = answer(model, opened, session)
    for number in range(WARMING + turns):
        started = now()
        place = tuple(int(rng.integers(n)) for n in shape)
        session = click(model, opened, session, given, Click(place, bool(number % 2)))
        given = answer(model, opened, session)
        seconds.append(now() - started)
    peak = torch.cuda.max_memory_allocated(device) / (1 << 30) if device.type == "cuda" else 0.0
    measured = seconds[WARMING:]
    size = "x".join(str(n) for n in shape)
    return Row(name, size, opening, float(np.median(measured)), max(measured), peak)


def table_of(rows: list[Row], title: str) -> Table:
    """One row a model."""
    table = Table(title=title)
    for column in ("model", "image", "open s", "turn p50 s", "longest s", "GPU GiB"):
        table.add_column(column, justify="left" if column in ("model", "image") else "right")
    for row in rows:
        times = (row.open_s, row.turn_p50_s, row.turn_longest_s)
        table.add_row(row.model, row.image, *(f"{value:.3f}" for value in times), f"{row.peak_gib:.1f}")
    return table


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS), help="[default: all]")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the values to this file, as JSON")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    rows = [measure(name, arguments.turns, device) for name in arguments.model or MODELS]
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    Console(width=110).print(table_of(rows, f"{arguments.turns} turns on {what}"))
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps({"device": what, "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
