"""A series' headers and places in a file, so that labels can become DICOM objects while the PACS is away."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from overread.domain import BadInputError
from overread.imaging.dicom.series import SeriesGeometry

SUFFIX = ".series.json.gz"
# Curves, overlays, icons and whatever else is large and says nothing about place or patient.
MOST_BYTES = 4096


def write_geometry(path: Path, geometry: SeriesGeometry) -> None:
    """Write it whole or not at all: gzipped JSON, the headers in the DICOM JSON model (PS3.18 annex F)."""
    content = {
        "instances": [slim(instance).to_json_dict() for instance in geometry.instances],
        "sources": [list(source) for source in geometry.sources],
        "positions": geometry.positions.tolist(),
        "orientation": geometry.orientation.tolist(),
        "spacing_mm": list(geometry.spacing_mm),
        "size": list(geometry.size),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with gzip.open(temporary, "wt", compresslevel=3) as file:
        json.dump(content, file)
    temporary.replace(path)


def read_geometry(path: Path) -> SeriesGeometry:
    """Read what `write_geometry` wrote. Raises BadInputError where it is missing or damaged."""
    try:
        with gzip.open(path, "rt") as file:
            content = json.load(file)
        return SeriesGeometry(
            instances=tuple(Dataset.from_json(instance) for instance in content["instances"]),
            sources=tuple((int(file), int(frame)) for file, frame in content["sources"]),
            positions=np.array(content["positions"]),
            orientation=np.array(content["orientation"]),
            spacing_mm=(float(content["spacing_mm"][0]), float(content["spacing_mm"][1])),
            size=(int(content["size"][0]), int(content["size"][1])),
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadInputError(f"{path} cannot be read as the places of a series: {error}") from error


def slim(instance: Dataset) -> Dataset:
    """A header without large elements, and without what cannot be written as JSON."""
    kept = Dataset()
    for element in instance:
        group = element.tag.group
        if element.tag.is_private or 0x5000 <= group <= 0x60FF:
            continue
        if isinstance(element.value, bytes) and len(element.value) > MOST_BYTES:
            continue
        try:
            element.to_json_dict(None, 1024)
        except Exception:
            # Values that break their own representation are of no use to an object made from them.
            continue
        kept.add(element)
    return kept
