"""Small slides with dark blobs, and a champion whose answer about them can be checked by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from overread.domain import PixelSize, Region
from overread.ensemble.ensemble import Calibration
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.slides.pyramid import write_pyramid
from overread.learning.champions import ChampionStore
from support.servers import BANDS

PIXEL = PixelSize(0.5)
# The members see every second pixel of a slide.
MODEL_PIXEL = PixelSize(1.0)
TUMOUR = "Tumor"
CLASSES = ("background", TUMOUR)
# A member calls tumour what is no brighter in red than 150, 180 and 120.
CUTS, OFFSETS = (-150.0,), (0.0, -30.0, 30.0)
GLASS, TISSUE = (245, 243, 246), (222, 150, 190)
# All members see it; two of three do, so that it is drawn with doubt; one does, so that it is doubt alone.
SURE, LIKELY, UNLIKELY = (90, 30, 120), (135, 60, 150), (165, 80, 160)
# Width and height, and what lies where, in level-0 pixels.
SIZE = (2400, 1600)
TISSUE_AT = Region(200, 160, 2000, 1280)
SURE_AT, LIKELY_AT, UNLIKELY_AT = (
    Region(400, 300, 240, 160),
    Region(1000, 400, 200, 200),
    Region(1500, 900, 160, 240),
)
BLOBS = ((SURE_AT, SURE), (LIKELY_AT, LIKELY), (UNLIKELY_AT, UNLIKELY))


def blob_picture(
    blobs: Iterable[tuple[Region, tuple[int, int, int]]] = BLOBS, size: tuple[int, int] = SIZE
) -> np.ndarray:
    """Glass with a piece of tissue and blobs in it, `(row, column, 3)` uint8."""
    picture = np.empty((size[1], size[0], 3), dtype=np.uint8)
    picture[:] = GLASS
    for region, colour in ((TISSUE_AT, TISSUE), *blobs):
        picture[region.y : region.bottom, region.x : region.right] = colour
    return picture


def write_blobs(
    path: Path, blobs: Iterable[tuple[Region, tuple[int, int, int]]] = BLOBS, size: tuple[int, int] = SIZE
) -> Path:
    """A pyramidal TIFF of `blob_picture`, 0.5 µm per pixel."""
    write_pyramid(path, blob_picture(blobs, size), PIXEL)
    return path


def publish_blob_champion(app_dir: Path, recipe: str = "blobs", *, bands: bool = True) -> Path:
    """Make a champion for these slides that needs no training."""
    staging = app_dir / "staging" / recipe
    write_threshold_ensemble(
        staging,
        recipe,
        CLASSES,
        CUTS,
        OFFSETS,
        patch=(64, 64),
        um_per_px=MODEL_PIXEL.um,
        weights=(-1.0, 0.0, 0.0),
        calibration=Calibration(bands={BANDS.measure: BANDS} if bands else {}),
    )
    champion = ChampionStore(app_dir / "model").publish(recipe, staging)
    shutil.rmtree(staging.parent)
    return champion
