"""Material for timing slides: one as large as wanted, and networks of the planned size that know nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch

from overread.domain import PixelSize, Region
from overread.ensemble.dynunet import build_network, member_weights
from overread.ensemble.fingerprint import Fingerprint, Intensities
from overread.ensemble.plan import CPU, Hardware, make_plan
from overread.ensemble.storage import write_description
from overread.imaging.slides.slide import Slide

TILE = 512
UM_OF_CM = 10_000
JPEG_QUALITY = 85
# Side of the source that is repeated; its halvings stay whole tiles down to the last level.
MOTIF = 2048
LEVELS = 3


def write_tiled_up(path: Path, source: Slide, edge_px: int) -> None:
    """Write a pyramidal JPEG TIFF of `edge_px` squared that repeats a part of a real slide. Memory stays small."""
    width, height = (min(MOTIF, n) for n in source.size_px)
    left, top = (source.size_px[0] - width) // 2, (source.size_px[1] - height) // 2
    motif = source.read_into(Region(left, top, width, height), (MOTIF, MOTIF))
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(LEVELS):
            shrink = 2**level
            small = motif.reshape(MOTIF // shrink, shrink, MOTIF // shrink, shrink, 3).mean(axis=(1, 3))
            edge, um = edge_px // shrink, source.pixel_size.um * shrink
            tiff.write(
                _tiles(small.round().astype(np.uint8), edge),
                shape=(edge, edge, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=1 if level else 0,
                resolution=(UM_OF_CM / um, UM_OF_CM / um),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def write_random_ensemble(
    folder: Path, *, members: int = 5, pixel: PixelSize = PixelSize(1.0), hardware: Hardware = CPU
) -> None:
    """Networks of the size that is planned for pictures of slides, with random weights: for timing only."""
    edge = 1024
    seen = Intensities(150.0, 50.0, 20.0, 250.0)
    facts = Fingerprint(
        shapes=((edge, edge),) * 100,
        spacings_mm=((1.0, 1.0),) * 100,
        intensities=(seen,) * 3,
        nonzero_share=1.0,
        classes=("background", "tumour"),
        channels=("R", "G", "B"),
        um_per_px=pixel.um,
    )
    plan = make_plan(facts, hardware)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    names = [f"member_{index}.pt" for index in range(members)]
    for name in names:
        torch.save(member_weights(build_network(plan, for_training=False)), folder / name)
    write_description(
        folder,
        {
            "kind": "dynunet",
            "name": "random",
            "classes": list(facts.classes),
            "channels": list(facts.channels),
            "plan": plan.to_json(),
            "members": names,
            "calibration": None,
        },
    )


def _tiles(motif: np.ndarray, edge: int) -> Iterator[np.ndarray]:
    """The motif over and over, tile by tile; the last ones reach beyond the picture."""
    count = -(-edge // TILE)
    around = np.tile(motif, (2, 2, 1)) if motif.shape[0] % TILE else motif
    for row in range(count):
        for column in range(count):
            y, x = row * TILE % motif.shape[0], column * TILE % motif.shape[1]
            yield np.ascontiguousarray(around[y : y + TILE, x : x + TILE])
