"""The picture in the README: a sample study, what the ensemble says and where to doubt it, drawn by 3D Slicer's core.

    python -m overread.studies.slicer_picture --model FOLDER --image case_0000.nii.gz --out docs/pictures/slicer.png

`FOLDER` is a trained ensemble: `model/<recipe>/<hash>` of the app, or what `overread train` wrote. Slicer's core
comes with `trame-slicer[standalone]`, and draws without a screen where OpenGL can be had by EGL (Debian:
`libegl1 libgl1-mesa-dri libx11-6`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from overread.domain import BadInputError
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.imaging.lattice import in_order_of
from overread.imaging.volumes import read_volume, write_nrrd
from overread.studies.slicer_scene import SlicerScene, in_own_process
from overread.uncertainty.calibration import band_map

# The usual soft-tissue window: level 40, width 400.
WINDOW_HU = (-160.0, 240.0)
PANEL_PX = (600, 600)
DOUBT_HIGH, DOUBT_MODERATE = "doubt: high", "doubt: moderate"
# Colours that stay apart for readers who cannot tell red from green, and fills through which the image shows.
CLASS_COLOURS = ((0.35, 0.70, 0.90), (0.80, 0.47, 0.95), (0.45, 0.85, 0.60), (0.95, 0.75, 0.85))
DOUBT_COLOURS = {DOUBT_HIGH: (1.0, 0.30, 0.05), DOUBT_MODERATE: (1.0, 0.85, 0.10)}
CLASS_FILL = 0.16
DOUBT_FILL = {DOUBT_HIGH: 0.62, DOUBT_MODERATE: 0.38}


def draw_in_slicer(
    image: Path, labels: np.ndarray, doubt: np.ndarray, classes: Sequence[str], picture: Path
) -> None:
    """Draw two panels of the slice with most doubt: the image alone, and with classes and bands.

    Args:
        labels: class indices `(*space)` on the image's grid.
        doubt: 0 none, 1 moderate, 2 high.
        classes: names, the background first.
        picture: PNG to write.
    """
    names = [*classes[1:], DOUBT_MODERATE, DOUBT_HIGH]
    values = labels.astype(np.uint8)
    values[doubt == 1] = len(classes)
    values[doubt == 2] = len(classes) + 1
    colours = {
        name: CLASS_COLOURS[index % len(CLASS_COLOURS)] for index, name in enumerate(classes[1:])
    } | DOUBT_COLOURS
    fills = dict.fromkeys(classes[1:], CLASS_FILL) | DOUBT_FILL
    with tempfile.TemporaryDirectory() as folder, in_own_process() as slicer:
        answer = Path(folder) / "answer.nrrd"
        write_nrrd(answer, values, read_volume([image]).grid)
        panels = [Path(folder) / "plain.png", Path(folder) / "segments.png"]
        slicer.submit(_draw_panels, image, answer, names, panels, colours, fills).result()
        _beside_each_other([Image.open(panel).convert("RGB") for panel in panels], colours, picture)


def _draw_panels(
    image: Path,
    answer: Path,
    names: Sequence[str],
    panels: Sequence[Path],
    colours: dict[str, tuple[float, float, float]],
    fills: dict[str, float],
) -> None:
    """In Slicer's process: the volume without and with the segments."""
    scene = SlicerScene(image, drawn=True)
    scene.import_result(answer, names)
    segments = scene.segment_voxels()
    telling = 1.0 * sum(segments[name] for name in (DOUBT_HIGH, DOUBT_MODERATE)) + 2.0 * segments[names[-3]]
    slice_k = int(telling.sum(axis=(0, 1)).argmax())
    scene.show_segments(False)
    scene.render(panels[0], slice_k, WINDOW_HU, colours, fills, PANEL_PX)
    scene.show_segments(True)
    scene.render(panels[1], slice_k, WINDOW_HU, colours, fills, PANEL_PX)
