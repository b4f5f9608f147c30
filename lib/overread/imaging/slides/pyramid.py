"""Write pictures that slide viewers open."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from overread.domain.errors import BadInputError
from overread.domain.slides import PixelSize

UM_OF_CM = 10_000.0
JPEG_QUALITY = 85


def write_pyramid(path: Path, picture: np.ndarray, pixel: PixelSize, *, tile: int = 256) -> None:
    """Write `(rows, cols[, 3])` uint8 as a tiled TIFF with levels, each half of the one before, losslessly packed.

    OpenSlide and QuPath open it and know its pixel size. The last level fits into one tile. The file appears under
    its name when it is complete.

    Raises:
        BadInputError: another shape or kind of picture, or a tile edge that is no multiple of 16.
    """
    _check(picture)
    if tile < 16 or tile % 16:
        raise BadInputError(f"tiles of {tile} pixels cannot be written to a TIFF, expected a multiple of 16")
    with (
        _whole_or_not_at_all(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=picture.nbytes > 2**31) as tiff,
    ):
        level, um = picture, pixel.um
        while True:
            tiff.write(
                level,
                tile=(tile, tile),
                compression="adobe_deflate",
                predictor=True,
                photometric="rgb" if level.ndim == 3 else "minisblack",
                subfiletype=0 if level is picture else 1,
                resolution=(UM_OF_CM / um, UM_OF_CM / um),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            if max(level.shape[:2]) <= tile:
                return
            level, um = _halved(level), um * 2


def write_thumbnail(path: Path, picture: np.ndarray) -> None:
    """Write `(rows, cols[, 3])` uint8 as PNG or JPEG, by the name's ending. Whole or not at all.

    Raises:
        BadInputError: another shape or kind of picture, or another ending.
    """
    _check(picture)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise BadInputError(f"{path} cannot be written: thumbnails end in .png, .jpg or .jpeg")
    with _whole_or_not_at_all(path) as temporary:
        Image.fromarray(picture).save(
            temporary, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {})
        )


def _check(picture: np.ndarray) -> None:
    is_picture = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[-1] == 3)
    if not is_picture or picture.dtype != np.uint8 or picture.size == 0:
        raise BadInputError(
            f"an array {picture.shape} of {picture.dtype} is no picture, expected (rows, columns[, 3]) of uint8"
        )


def _halved(picture: np.ndarray) -> np.ndarray:
    """Means of two by two pixels; an odd last row or column counts twice."""
    rows, columns = picture.shape[:2]
    even = np.pad(picture, [(0, rows % 2), (0, columns % 2), *[(0, 0)] * (picture.ndim - 2)], mode="edge")
    sums = even[::2].astype(np.uint16) + even[1::2]
    return ((sums[:, ::2] + sums[:, 1::2] + 2) // 4).astype(np.uint8)


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
