"""Candidates as labelled points for 3D Slicer, which loads any answer called `.json` as markups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overread.domain import Grid
from overread.imaging.volumes import LPS_TO_RAS
from overread.server.meduhip.views import Offer

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
SUFFIX = ".mrk.json"


def write_markups(file: Path, offers: Sequence[Offer], grid: Grid) -> None:
    """Write a point in the middle of each region, labelled with what the candidate changes.

    Args:
        grid: of the file that the viewer shows.
    """
    points = []
    for offer in offers:
        if offer.place is None:
            continue
        index = np.ones(4)
        index[:3] = (*offer.place, 0)[:3]
        points.append(
            {
                "id": str(len(points) + 1),
                "label": offer.label,
                "position": (LPS_TO_RAS @ grid.affine @ index)[:3].tolist(),
                "selected": True,
                "locked": True,
                "visibility": True,
                "positionStatus": "defined",
            }
        )
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    file.write_text(json.dumps({"@schema": SCHEMA, "markups": [markups]}, allow_nan=False))
