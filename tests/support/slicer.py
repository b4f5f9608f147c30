"""Files as 3D Slicer writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from overread.domain import Grid
from overread.imaging.volumes import LPS_TO_RAS

DEFAULT_GRID = Grid((1, 1, 1), np.diag([-1.0, -1, 2, 1]))


def write_segments(
    path: Path,
    layers: Sequence[np.ndarray],
    segments: Sequence[tuple[str, Any, Any]],
    grid: Grid = DEFAULT_GRID,
) -> Path:
    """A segmentation file.

    Args:
        layers: `(i, j, k)` each.
        segments: name, layer and value of each; None leaves an entry of the header out.
        grid: its affine is used.
    """
    stack = np.stack([layer.transpose(2, 1, 0) for layer in layers], axis=-1)
    image = sitk.GetImageFromArray(stack if len(layers) > 1 else stack[..., 0], isVector=len(layers) > 1)
    affine = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    for number, (name, layer, value) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        if layer is not None:
            image.SetMetaData(f"Segment{number}_Layer", str(layer))
        if value is not None:
            image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path
