"""One pass over a slide, for `slide_benchmark`: prints as its last line what it took, as JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from overread.domain import Region
from overread.ensemble.compute import choose_device
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.slide import open_slide


def main() -> None:
    """Read the command line, look at the slide, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("maps", type=Path, help="where to save the maps")
    parser.add_argument("--cascade", type=float)
    parser.add_argument("--region", type=int, nargs=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    ensemble = load_ensemble(arguments.model, device)
    options = SlideOptions(batch=arguments.batch, workers=arguments.workers, cascade=arguments.cascade)
    with open_slide(arguments.slide) as slide:
        region = Region(*arguments.region) if arguments.region else None
        found = predict_slide(ensemble, slide, region=region, options=options, device=device)
    found.maps.save(arguments.maps)
    print(json.dumps(asdict(found.report)))


if __name__ == "__main__":
    main()
