"""The picture of candidates in the README: `PYTHONPATH=tests python -m support.styles_picture OUT.png`.

A computed lesion with a core, a rim and a hazy surrounding, and the model of `support.styles`, whose three styles were
set by hand: one draws all of it, one leaves out the haze, one draws the core. The server and 3D Slicer's core are real.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from overread.domain import Grid
from overread.imaging.volumes import write_nifti
from overread.studies.candidates_picture import main
from support.styles import BODY, CORE, MIDDLE, OUTER, publish_styles

SHAPE = (84, 72, 36)
NOISE = 2.5
# Semi-axes in voxels, and how far each shell lies from the middle; the haze reaches far to one side.
SHELLS = (
    (OUTER, (27, 21, 15), (5, -3, 0)),
    (MIDDLE, (17, 15, 11), (0, 0, 0)),
    (CORE, (9, 8, 7), (-3, 2, 0)),
)


def lesion() -> np.ndarray:
    """The image `(*SHAPE)`; outlines wobble as those of lesions do."""
    rng = np.random.default_rng(3)
    voxels = np.indices(SHAPE).transpose(1, 2, 3, 0) - np.array(SHAPE) / 2
    body = ((voxels / (np.array(SHAPE) * (0.48, 0.48, 0.6))) ** 2).sum(axis=-1) < 1
    image = np.where(body, BODY, -100.0)
    for value, axes, middle in SHELLS:
        wobble = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 5)
        distance = np.sqrt((((voxels - middle) / axes) ** 2).sum(axis=-1))
        image[body & (distance < 1 + 0.13 * wobble / wobble.std())] = value
    return (image + NOISE * rng.standard_normal(SHAPE)).astype(np.float32)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        champion = publish_styles(folder, "lesion", classes=("background", "lesion"))
        write_nifti(folder / "image.nii.gz", lesion(), Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0])))
        app = Path(__file__).parents[2] / "apps" / "radiology"
        image = ["--image", str(folder / "image.nii.gz"), "--label", "lesion"]
        main([str(app), "--model", str(champion), *image, "--out", sys.argv[1]])
