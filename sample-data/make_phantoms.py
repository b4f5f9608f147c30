"""Make the sample studies: `python sample-data/make_phantoms.py --out sample-data/phantom`."""

import argparse
from pathlib import Path

from overread.studies.phantom import make_phantoms
from overread.studies.phantom_picture import draw_phantoms

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "phantom", help="folder to write")
    parser.add_argument("--train", type=int, default=16, help="labelled cases")
    parser.add_argument("--unlabelled", type=int, default=4, help="cases to serve")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other patients")
    parser.add_argument("--picture", type=Path, help="also draw a few slices to this PNG")
    wanted = parser.parse_args()
    make_phantoms(wanted.out, wanted.train, wanted.unlabelled, wanted.seed)
    if wanted.picture:
        draw_phantoms(wanted.out, wanted.picture)
