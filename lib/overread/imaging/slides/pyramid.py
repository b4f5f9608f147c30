"""Write pictures that slide viewers open."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.domain.slides import PixelSize


def write_pyramid(path: Path, picture: np.ndarray, pixel: PixelSize, *, tile: int = 256) -> None:
    """Write `(rows, cols[, 3])` uint8 as a pyramidal TIFF."""
    raise NotImplementedError


def write_thumbnail(path: Path, picture: np.ndarray) -> None:
    """Write `(rows, cols[, 3])` uint8 as PNG or JPEG."""
    raise NotImplementedError
