"""Slides whose every pixel is known, tissue that is told, and ensembles that can be asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
import torch

from overread.domain import PixelSize
from overread.ensemble.dynunet import build_network
from overread.ensemble.ensemble import Calibration, Ensemble
from overread.ensemble.plan import Normalisation
from overread.ensemble.preparation import normalise_colours, prepare
from overread.ensemble.storage import load_ensemble
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.slides.slide import Slide, open_slide
from overread.imaging.slides.tissue import TissueMask
from support.plans import tiny_plan

UM_OF_CM = 10_000


def slide_of(path: Path, picture: np.ndarray, um: float = 1.0) -> Slide:
    """A tiled TIFF of `(rows, columns, 3)`, opened."""
    tifffile.imwrite(
        path,
        picture,
        tile=(64, 64),
        photometric="rgb",
        compression="zlib",
        resolution=(UM_OF_CM / um, UM_OF_CM / um),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return open_slide(path)


def grey(intensity: np.ndarray) -> np.ndarray:
    """`(rows, columns)` as a picture with three equal channels."""
    return np.repeat(intensity.astype(np.uint8)[..., None], 3, axis=2)


def tissue_of(slide: Slide, mask: np.ndarray | None = None, cell: float = 8.0) -> TissueMask:
    """Tissue as told, `(rows, columns)` of cells; everywhere by default."""
    edge = cell / slide.pixel_size.um
    width, height = (max(1, round(np.ceil(n / edge))) for n in slide.size_px)
    full = np.ones((height, width), bool) if mask is None else mask
    return TissueMask(full, PixelSize(cell), slide.pixel_size)


def red_cuts(
    folder: Path,
    cuts: Sequence[float] = (100,),
    offsets: Sequence[float] = (0,),
    *,
    patch: Sequence[int] = (32, 32),
    um: float = 1.0,
    sharpness: float = 1.0,
    calibration: Calibration | None = None,
) -> Ensemble:
    """Members that cut the red channel."""
    classes = ("background", "tumour", "necrosis")[: len(cuts) + 1]
    write_threshold_ensemble(
        folder,
        "red",
        classes,
        cuts,
        offsets,
        patch=patch,
        um_per_px=um,
        weights=(1, 0, 0),
        sharpness=sharpness,
        calibration=calibration,
    )
    return load_ensemble(folder)


def random_networks(members: int = 2, kind: str = "rgb") -> Ensemble:
    """DynUNets of 16 x 16 pixels with random weights."""
    rules = (Normalisation(kind),) * 3  # pyright: ignore[reportArgumentType]
    plan = replace(tiny_plan(axes=2, channels=3), normalisation=rules, um_per_px=1.0)
    torch.manual_seed(0)
    networks = [build_network(plan, for_training=False).eval() for _ in range(members)]
    return Ensemble(
        name="random",
        classes=("background", "tumour"),
        channels=("R", "G", "B"),
        members=networks,
        patch=plan.patch,
        prepare=partial(prepare, plan),
        um_per_px=1.0,
        colours=partial(normalise_colours, rules),
    )
