"""Where the pixels of a slide come from: a pyramid of levels, cut into blocks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import openslide
from PIL import Image

from overread.domain.errors import BadInputError
from overread.domain.slides import PixelSize

# What a microscope can resolve; a resolution tag outside of it is a printer's (72 dpi is 353 µm).
PLAUSIBLE_UM = (0.02, 20.0)
# Magnification times µm per pixel of today's scanners: 20x is 0.5, 40x is 0.25.
UM_TIMES_POWER = 10.0
# A picture that must be decoded as a whole may take 600 MB.
MOST_PIXELS_AT_ONCE = 200_000_000
BLOCK_PX = 512
CACHE_BYTES = 64 * 2**20
MODES_OF_8_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class Source(Protocol):
    """Levels of a slide, the finest first.

    Attributes:
        sizes: (width, height) of each level.
        blocks: (width, height) of the blocks that each level is read by.
        um: edge of a level-0 pixel by the header, None where it does not say.
        power: nominal magnification by the header, None where it does not say.
        rank: how well the format suits; of two files of one slide the higher is read.
    """

    sizes: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int], ...]
    um: float | None
    power: float | None
    rank: int

    def read_block(self, level: int, column: int, row: int) -> np.ndarray:
        """One block `(rows, cols, 3)` uint8, cut off at the level's edge. May be called from several threads."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class OpenSlideSource:
    """SVS, NDPI, MRXS, SCN, BIF, SVSLIDE, VMS, VMU and makers' own TIFF: all that OpenSlide recognises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise BadInputError(f"{path} cannot be read: {error}") from error
        self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        full = self._slide.level_dimensions
        self._corner, scanned = _scanned(self._slide.properties, full[0])
        self.sizes = tuple(_part(scanned, downsample(full[0], size)) for size in full)
        self.blocks: tuple[tuple[int, int], ...] = ((BLOCK_PX, BLOCK_PX),) * len(self.sizes)
        header = self._slide.properties
        edges = [plausible_um(header.get(name)) for name in ("openslide.mpp-x", "openslide.mpp-y")]
        self.um = square(edges[0], edges[1])
        self.power = _number(header.get("openslide.objective-power"))
        # Of a place between two pixels of a level, the reader of Leica's files drops the fraction.
        self._to_whole = math.ceil if header.get("openslide.vendor") == "leica" else round
        self.rank = 2 if header.get("openslide.vendor") == "generic-tiff" else 3

    def read_block(self, level: int, column: int, row: int) -> np.ndarray:
        x, y = column * BLOCK_PX, row * BLOCK_PX
        width, height = (min(BLOCK_PX, size - at) for size, at in zip(self.sizes[level], (x, y), strict=True))
        # OpenSlide takes whole pixels of level 0. Its own factor leads back to this place on the level; where it is
        # odd (2.0005), to within half a pixel of level 0.
        factor = self._slide.level_downsamples[level]
        place = (
            self._corner[0] + self._to_whole(x * factor),
            self._corner[1] + self._to_whole(y * factor),
        )
        try:
            rgba = np.asarray(self._slide.read_region(place, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise BadInputError(
                f"{self._path} is damaged on level {level} at x {x}, y {y}: {error}"
            ) from error
        # Nothing that was scanned is half transparent; a part of a pixel at the level's border looks like that.
        unscanned = rgba[..., 3] < 128
        pixels = np.ascontiguousarray(rgba[..., :3])
        pixels[unscanned] = 255
        return pixels

    def close(self) -> None:
        self._slide.close()


def _scanned(header: Mapping[str, str], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(x, y) and (width, height) of what was scanned of the glass; all where the header does not say it.

    QuPath opens that part, and counts its pixels from there.
    """
    try:
        x, y, width, height = (
            int(header[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return (0, 0), size
    return ((x, y), (width, height)) if width > 0 and height > 0 else ((0, 0), size)


def _part(scanned: tuple[int, int], factor: float) -> tuple[int, int]:
    """Size of what was scanned on a level, without the pixels at its border that it fills in part."""
    width, height = (max(1, math.floor(edge / factor + 1e-6)) for edge in scanned)
    return width, height


class PictureSource:
    """PNG and JPEG: decoded as a whole at the first read."""

    um: float | None = None
    power: float | None = None
    rank = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._pixels: np.ndarray | None = None
        try:
            with _opened(path) as picture:
                size, mode = picture.size, picture.mode
        except OSError as error:  # PIL's own error for what it does not know is one, too
            raise BadInputError(f"{path} cannot be read: {error}") from error
        if mode not in MODES_OF_8_BIT:
            raise BadInputError(f"{path} has pixels of kind {mode}, expected 8 bits a channel, grey or RGB")
        check_fits_memory(path, size)
        self.sizes: tuple[tuple[int, int], ...] = (size,)
        self.blocks: tuple[tuple[int, int], ...] = ((BLOCK_PX, BLOCK_PX),)

    def read_block(self, level: int, column: int, row: int) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decoded()
            pixels = self._pixels
        y, x = row * BLOCK_PX, column * BLOCK_PX
        return pixels[y : y + BLOCK_PX, x : x + BLOCK_PX]

    def _decoded(self) -> np.ndarray:
        try:
            with _opened(self._path) as picture:
                if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
                    return on_white(np.asarray(picture.convert("RGBA")))
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise BadInputError(f"{self._path} cannot be read: {error}") from error

    def close(self) -> None:
        self._pixels = None


def _opened(path: Path) -> Image.Image:
    # Image.open warns of pictures that a slide easily exceeds; `check_fits_memory` is the limit here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def check_fits_memory(path: Path, size: tuple[int, int]) -> None:
    """Refuse what would have to be decoded as a whole and is too large for that."""
    width, height = size
    if width * height > MOST_PIXELS_AT_ONCE:
        raise BadInputError(
            f"{path} has {width} x {height} pixels that can only be decoded all at once, "
            f"expected at most {MOST_PIXELS_AT_ONCE // 10**6} million; convert it to a tiled pyramidal TIFF"
        )


def on_white(rgba: np.ndarray) -> np.ndarray:
    """`(rows, cols, 4)` to `(rows, cols, 3)` uint8, on white paper where it is transparent."""
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    over = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return ((over + 127) // 255).astype(np.uint8)


def plausible_um(value: object) -> float | None:
    """A pixel's edge in µm, None where a microscope cannot have meant it."""
    um = _number(value)
    return um if um is not None and PLAUSIBLE_UM[0] <= um <= PLAUSIBLE_UM[1] else None


def downsample(full: tuple[int, int], level: tuple[int, int]) -> float:
    """How many level-0 pixels lie along one of the level.

    Scanners halve and drop what is left over: 4443 x 3567 over 2221 x 1783 is 2, not 2.0005, which would be off by
    a pixel at the far edge.
    """
    factor = (full[0] / level[0] + full[1] / level[1]) / 2
    whole = round(factor)
    return float(whole) if all(abs(a / whole - b) <= 1 for a, b in zip(full, level, strict=True)) else factor


def square(x: float | None, y: float | None) -> float | None:
    """Edge of the square pixel with the area of x by y."""
    return (x * y) ** 0.5 if x and y else x or y


def assumed_size(source: Source, assumed: PixelSize) -> PixelSize:
    """The magnification's usual pixel size where the header has one, else the given."""
    um = plausible_um(UM_TIMES_POWER / source.power) if source.power else None
    return PixelSize(um) if um else assumed


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
