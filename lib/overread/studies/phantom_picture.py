"""The sample studies at a glance: slices in an abdominal window, as they are and with the labels' outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from overread.imaging.volumes import read_array, read_labelmap
from overread.studies.phantom_anatomy import LESION, LIVER

# The usual soft-tissue window: level 40, width 400.
WINDOW_HU = (-160, 240)


def draw_phantoms(folder: Path, picture: Path, cases: int = 3) -> None:
    """Draw three axial slices of the first labelled cases in `folder` to a PNG, each with its outlined twin.

    The slices are one through the kidney, the one with most lesion, and one through the lung's base.
    """
    images = sorted((Path(folder) / "imagesTr").glob("*_0000.nii.gz"))[:cases]
    figure = Figure(figsize=(12, 2 * len(images)), dpi=80, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), 6, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    for row, image in zip(axes, images, strict=True):
        hu, grid = read_array(image)
        labels, _ = read_labelmap(image.parents[1] / "labelsTr" / image.name.replace("_0000", ""))
        # Radiologists look from the feet: the patient's right is on the left, the front is up.
        flips = tuple(axis for axis in (0, 1) if grid.affine[axis, axis] > 0)
        hu, labels = np.flip(hu, flips), np.flip(labels, flips)
        lesion_area = (labels == LESION).sum(axis=(0, 1))
        middle = int(lesion_area.argmax()) if lesion_area.any() else hu.shape[2] // 2
        levels = (hu.shape[2] // 5, middle, hu.shape[2] * 3 // 4)
        for column, panel in enumerate(row):
            level = levels[column // 2]
            step_i, step_j, _ = grid.spacing_mm
            panel.imshow(
                hu[:, :, level].T,
                cmap="gray",
                vmin=WINDOW_HU[0],
                vmax=WINDOW_HU[1],
                aspect=step_j / step_i,
                interpolation="bicubic",
            )
            panel.axis("off")
            if column % 2:
                _outline(panel, labels[:, :, level].T >= LIVER, "#4cc9f0")
                _outline(panel, labels[:, :, level].T == LESION, "#ffb703")
    picture.parent.mkdir(parents=True, exist_ok=True)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(
        200, Image.Quantize.MAXCOVERAGE
    ).save(picture, optimize=True)


def _outline(panel, mask: np.ndarray, colour: str) -> None:
    if mask.any():
        panel.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)
