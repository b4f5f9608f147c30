"""What the first request would otherwise wait for: late imports, weights from disk, the first convolution."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import numpy as np

from overread.domain import Grid, OverreadError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.ensemble.threshold import ThresholdMember, prepare_unchanged
from overread.imaging.volumes import Volume, read_volume, write_nifti, write_nrrd
from overread.meduhip.storage import KIND as MEDUHIP
from overread.server.models import ServedModels

logger = logging.getLogger(__name__)


def warm_up(models: ServedModels) -> None:
    """Read, predict and write a tiny volume once, then load the champions. Never raises for a bad champion."""
    started = time.perf_counter()
    rehearse(Path(tempfile.gettempdir()))
    logger.info("Warmed up in %.1f s", time.perf_counter() - started)
    for name in models.names():
        load(models, name)
    logger.info("Champions loaded after %.1f s", time.perf_counter() - started)


def load(models: ServedModels, name: str) -> None:
    """Load a champion; a damaged one is logged, and named again to whoever asks for it."""
    try:
        if models.kind(name) == MEDUHIP:
            models.reader(name)
        else:
            models.ensemble(name)
    except OverreadError:
        logger.exception("The champion of %s cannot be loaded", name)


def rehearse(folder: Path) -> None:
    """One inference on a volume of 8 x 8 x 8 voxels, with files in `folder`."""
    grid = Grid((8, 8, 8), np.eye(4))
    files = [folder / "rehearsal.nii.gz", folder / "rehearsal.nrrd"]
    ensemble = Ensemble(
        name="rehearsal",
        classes=("background", "bright"),
        channels=("image",),
        members=[ThresholdMember((0.5,), 1.0)],
        patch=(8, 8, 8),
        prepare=prepare_unchanged,
    )
    try:
        write_nifti(files[0], np.zeros(grid.shape, dtype=np.float32), grid)
        prediction = predict(ensemble, Volume(read_volume(files[:1]).voxels, grid))
        write_nrrd(files[1], prediction.labels, grid)
        read_volume(files[1:])
    finally:
        for file in files:
            file.unlink(missing_ok=True)
