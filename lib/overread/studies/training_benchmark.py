"""Training steps a second, by device and by the most threads that make batches ahead of a GPU.

    python -m overread.studies.training_benchmark --device cuda --threads 1 --threads 3 --threads 15 --out steps.json

The images are noise: a step computes the same on it, and the patches are cut and varied as in every training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from overread.ensemble.compute import choose_device, choose_precision
from overread.ensemble.lesson import Lesson, Pool
from overread.ensemble.member_training import MemberTraining
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Normalisation, Plan, topology

WARM_UP = 20
BLOB_SHARE = 0.3
RGB = (Normalisation("rgb"),) * 3
MR = (Normalisation("zscore"),)


def plan_of(window: tuple[int, ...], batch: int, features: int, most: int, stages: int) -> Plan:
    """A plan for windows of that size, of pictures at 1 µm or of volumes at 1 mm."""
    spacing, axes = (1.0,) * len(window), len(window)
    patch, kernels, strides = topology(window, spacing, stages)
    channels = tuple(min(features * 2**level, most) for level in range(len(strides)))
    normalisation = RGB if axes == 2 else MR
    plan = Plan(spacing, patch, batch, kernels, strides, channels, normalisation, tuple(range(axes)), 2)
    return replace(plan, um_per_px=1.0, norm="batch") if axes == 2 else plan


PLANS: Mapping[str, Plan] = {
    "pictures, 256 x 256, batch 4": plan_of((256, 256), 4, 16, 128, 5),
    "pictures, 512 x 512, batch 12": plan_of((512, 512), 12, 32, 512, 7),
    "volumes, 48 x 48 x 32, batch 2": plan_of((48, 48, 32), 2, 16, 128, 4),
    "volumes, 128 x 128 x 128, batch 2": plan_of((128, 128, 128), 2, 32, 320, 6),
}


class NoiseStore(PatchStore):
    """Cuts patches out of one image of noise."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(Path())
        size = tuple(edge + 16 for edge in plan.patch)
        drawn = torch.Generator().manual_seed(0)
        self.image = torch.rand(len(plan.normalisation), *size, generator=drawn)
        self.label = (torch.rand(size, generator=drawn) < BLOB_SHARE).long()

    def sample(
        self, case: str, patch: tuple[int, ...], generator: torch.Generator, *, on_foreground: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A patch at any place."""
        starts = [int(torch.randint(17, (1,), generator=generator)) for _ in patch]
        where = tuple(slice(s, s + n) for s, n in zip(starts, patch, strict=True))
        return self.image[(slice(None), *where)].clone(), self.label[where].clone()


def measure(plan: Plan, device: str, threads: int, seconds: float) -> dict[str, float]:
    """Steps a second, and seconds that one thread takes for a batch."""
    where = choose_device(device)
    with tempfile.TemporaryDirectory() as folder:
        member = MemberTraining(
            0,
            plan,
            Lesson((Pool(("noise",)),)),
            NoiseStore(plan),
            Path(folder),
            seed=0,
            most_iterations=10**9,
            budget_s=None,
            checkpoint_every_s=1e9,
            device=where,
            precision=choose_precision("auto", where),
            optimiser="adamw",
            loaders=threads,
        )
        began = time.perf_counter()
        member.batch(0)
        batch_s = time.perf_counter() - began
        stop, times = Event(), [0.0]

        def heard(now: MemberTraining) -> None:
            times.append(time.perf_counter())
            if now.iteration > WARM_UP and times[-1] - times[WARM_UP] > seconds:
                stop.set()

        member.run(1e9, stop, heard)
        return {
            "steps_per_s": (len(times) - 1 - WARM_UP) / (times[-1] - times[WARM_UP]),
            "batch_s": batch_s,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, action="append", help="may be given several times; 1")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument(
        "--plan", action="append", choices=sorted(PLANS), help="may be given several times; all"
    )
    parser.add_argument("--out", type=Path, help="JSON")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    table = Table("plan", "threads", "steps a second", "ms a step", "ms a batch, one thread")
    for name in asked.plan or PLANS:
        for threads in asked.threads or [1]:
            found = measure(PLANS[name], asked.device, threads, asked.seconds)
            rows.append({"plan": name, "threads": threads, **found})
            table.add_row(
                name,
                str(threads),
                f"{found['steps_per_s']:.1f}",
                f"{1000 / found['steps_per_s']:.1f}",
                f"{1000 * found['batch_s']:.0f}",
            )
    Console().print(table)
    if asked.out is not None:
        where = choose_device(asked.device)
        what = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
        facts = {"device": what, "torch": str(torch.__version__), "rows": rows}
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
