"""One prediction in a process of its own: `python -m overread.studies.predict_once ENSEMBLE IMAGE LABELMAP`.

What the predictor benchmark measures. Prints one line of JSON: seconds by stage and the share of members spared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_volume, write_nifti


def main() -> None:
    """Read the command line, predict, write the label map."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ensemble", type=Path)
    parser.add_argument("image", type=Path, nargs="+", help="one file a channel, then the label map to write")
    parser.add_argument("--precision", default="full", choices=("full", "reduced", "auto"))
    parser.add_argument("--cascade", type=float)
    arguments = parser.parse_args()
    *channels, labelmap = arguments.image
    prediction = predict(
        load_ensemble(arguments.ensemble),
        read_volume(channels),
        measures=(),
        precision=arguments.precision,
        cascade=arguments.cascade,
    )
    write_nifti(labelmap, prediction.labels, prediction.grid)
    print(json.dumps({"timing_s": prediction.timing_s, "members_spared": prediction.members_spared}))


if __name__ == "__main__":
    main()
