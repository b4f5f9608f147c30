"""Make sample slides: `python sample-data/make_slides.py --out sample-data/slides`."""

import argparse
from pathlib import Path

from rich.progress import Progress

from overread.studies.slides.dataset import make_slides
from overread.studies.slides.picture import draw_centres

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "slides", help="folder to write")
    parser.add_argument("--central", type=int, default=4, help="slides of centre A, to learn from")
    parser.add_argument("--served", type=int, default=4, help="slides of the other centres, to serve")
    parser.add_argument("--size", type=int, default=8000, help="width and height in pixels")
    parser.add_argument("--um", type=float, default=0.5, help="µm per pixel")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other patients")
    parser.add_argument("--picture", type=Path, help="only draw the five centres to this PNG")
    wanted = parser.parse_args()
    if wanted.picture:
        draw_centres(wanted.picture, wanted.size, wanted.seed)
    else:
        with Progress() as bar:
            task = bar.add_task("slides")
            make_slides(
                wanted.out,
                central=wanted.central,
                served=wanted.served,
                size_px=wanted.size,
                um_per_px=wanted.um,
                seed=wanted.seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
