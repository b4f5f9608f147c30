"""How long a reader waits for the next patch once slides are scored, strategy by strategy.

    python -m overread.studies.patch_benchmark --slides 20 --edge-mm 20 --requests 40

The slides' maps are made up, as large as those of real slides, and nothing but the queue is timed: no slide is read and
no network asked. Each strategy gets a queue of its own; what it asks stays asked, as if readers labelled it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from overread.domain import PixelSize
from overread.ensemble.slides.maps import CELL, KEPT_MEASURES, SlideMaps
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.strategies import PATCH_STRATEGIES
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.state.database import Database

MEMBERS = 5
SLIDE_PIXEL = PixelSize(0.5)
# Tissue, and what is called tumour: the highest part of smooth noise.
TISSUE_SHARE, TUMOUR_SHARE = 0.5, 0.1
SMOOTH_CELLS, COARSEN = 12, 8
# Maps of a slide of 20 mm take a quarter of a GB; slides share so many.
DIFFERENT = 4


@dataclass(frozen=True)
class Waits:
    """Seconds until the answers of one strategy.

    Attributes:
        first: the first question; as in a server, only the default strategy had been made ready for.
        median, p95, longest: of the further ones, after what the first needed was made ready.
        processor: what one of these took of a processor's time at most; the rest was waiting for other programs.
    """

    strategy: str
    requests: int
    first: float
    median: float
    p95: float
    longest: float
    processor: float


def made_up_maps(edge_mm: float, rng: np.random.Generator) -> SlideMaps:
    """Maps of a square slide half of which is tissue, with five members that differ at the borders of tumour."""
    cells = round(edge_mm * 1000 / CELL.um)
    landscape = _smooth(cells, rng)
    tissue = landscape > np.quantile(landscape, 1 - TISSUE_SHARE)
    hills = _smooth(cells, rng)
    # Members put the border elsewhere.
    edges = np.quantile(hills, 1 - TUMOUR_SHARE) + np.linspace(-0.2, 0.2, MEMBERS)
    drawn = np.stack([(hills > edge) & tissue for edge in edges]).astype(np.float16)
    tumour = drawn.mean(axis=0, dtype=np.float32)
    doubt = (-_xlogx(tumour) - _xlogx(1 - tumour) + 0.05 * rng.random(tumour.shape)) * tissue
    pairs = tuple(combinations(range(MEMBERS), 2))
    px = round(edge_mm * 1000 / SLIDE_PIXEL.um)
    return SlideMaps(
        slide_size_px=(px, px),
        slide_pixel_size=SLIDE_PIXEL,
        cell=CELL,
        classes=("background", "Tumor"),
        tissue=tissue,
        known=tissue.copy(),
        is_coarse=False,
        probability=np.stack([1 - tumour, tumour]).astype(np.float16),
        maps={name: doubt.astype(np.float16) for name in KEPT_MEASURES},
        class_doubt=(doubt * tumour)[None].astype(np.float16),
        sizes=drawn[:, None],
        overlaps=np.stack([drawn[one] * drawn[other] for one, other in pairs])[:, None],
        pairs=pairs,
    )


def measure(
    strategy: str, slides: dict[str, SlideEntry], folder: Path, requests: int, patch_px: tuple[int, int]
) -> Waits:
    """Ask so many times, each time as another reader."""
    database = Database.open(folder / f"{strategy}.db")
    queue = PatchQueue(database, "benchmark", "champion", QueueSettings(control_share=0.0))
    rng, took = np.random.default_rng(0), []
    queue.warm(slides, patch_px)
    for number in range(requests + 1):
        started, busy = time.perf_counter(), time.thread_time()
        answer = queue.ask(strategy, f"reader {number}", slides, None, patch_px, 1.0 + number, rng)
        took.append((time.perf_counter() - started, time.thread_time() - busy))
        assert isinstance(answer, ServedPatch), answer
        if number == 0:
            queue.warm(slides, patch_px)
    database.close()
    waits = np.array(took[1:])
    median, p95, longest = np.percentile(waits[:, 0], (50, 95, 100))
    return Waits(
        strategy, requests, took[0][0], float(median), float(p95), float(longest), float(waits[:, 1].max())
    )


def table_of(found: Sequence[Waits], title: str) -> Table:
    """What people look at."""
    table = Table(title=title)
    for heading in ("strategy", "first", "median", "p95", "longest", "processor, at most"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for one in found:
        seconds = (one.first, one.median, one.p95, one.longest, one.processor)
        table.add_row(one.strategy, *(f"{value * 1000:.0f} ms" for value in seconds))
    return table


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--edge-mm", type=float, default=20.0, help="of each slide")
    parser.add_argument(
        "--patch", type=int, default=1024, help="edge of a patch, in level-0 pixels of 0.5 µm"
    )
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--strategies", nargs="+", default=list(PATCH_STRATEGIES), metavar="NAME")
    parser.add_argument("--out", type=Path, help="also write all values to this file, as JSON")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    slides = {}
    different = [made_up_maps(arguments.edge_mm, rng) for _ in range(min(DIFFERENT, arguments.slides))]
    for number in range(arguments.slides):
        maps = different[number % DIFFERENT]
        slides[f"slide_{number:02d}"] = SlideEntry(
            lambda maps=maps: maps,
            f"patient {number}",
            f"centre {number % 4}",
            maps.slide_size_px,
            SLIDE_PIXEL,
            version=number,
        )
    size = (arguments.patch, arguments.patch)
    with tempfile.TemporaryDirectory(prefix="overread-patches-") as folder:
        found = [
            measure(name, slides, Path(folder), arguments.requests, size) for name in arguments.strategies
        ]
    title = f"{arguments.slides} slides of {arguments.edge_mm:g} mm, patches of {arguments.patch} pixels"
    Console().print(table_of(found, title))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")


def _smooth(cells: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of standard deviation 1 without detail below some cells."""
    coarse = ndimage.gaussian_filter(rng.standard_normal((cells // COARSEN + 2,) * 2), SMOOTH_CELLS)
    fine = ndimage.zoom(coarse / coarse.std(), COARSEN, order=1)
    return np.asarray(fine[:cells, :cells], np.float32)


def _xlogx(share: np.ndarray) -> np.ndarray:
    return share * np.log(np.maximum(share, 1e-9))


if __name__ == "__main__":
    main()
