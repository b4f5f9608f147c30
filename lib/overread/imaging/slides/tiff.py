"""TIFF of no maker of scanners: tiled pyramids, plain, in strips, planar, and OME with its pyramid in SubIFDs."""

from __future__ import annotations

import math
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from overread.domain.errors import BadInputError
from overread.imaging.slides.sources import (
    check_fits_memory,
    on_white,
    plausible_um,
    square,
)

UM_OF_UNIT = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3}
UM_OF_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}
READABLE = ("RGB", "YCBCR", "MINISBLACK", "MINISWHITE", "PALETTE")
# Strips of few rows are put together, so that a read does not call for thousands of them.
STRIPS_PX = 128


class TiffSource:
    """8-bit grey or colour TIFF, read strip by strip or tile by tile: memory does not grow with the slide."""

    power: float | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        try:
            self._file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError) as error:
            raise BadInputError(f"{path} cannot be read: {error}") from error
        try:
            self._pages = _levels(self._file)
            for page in self._pages:
                self._check(page)
            self.um = _um_of(self._file, self._pages[0])
        except BaseException:
            self._file.close()
            raise
        self.rank = 2 if self._pages[0].is_tiled and not self._file.is_ome else 1
        self.sizes: tuple[tuple[int, int], ...] = tuple(
            (page.imagewidth, page.imagelength) for page in self._pages
        )
        self.blocks: tuple[tuple[int, int], ...] = tuple(_block_size(page) for page in self._pages)

    def _check(self, page: Any) -> None:
        kind = getattr(page.photometric, "name", page.photometric)
        what = f"{page.samplesperpixel} channels of {page.bitspersample} bits ({kind})"
        if page.dtype != np.uint8 or page.bitspersample != 8:
            raise BadInputError(
                f"{self._path} holds {what}, expected 8 bits; slides are grey or RGB of 8 bits"
            )
        if kind not in READABLE or page.samplesperpixel > 4 or page.imagedepth > 1:
            raise BadInputError(f"{self._path} holds {what}, expected grey or RGB")
        channels = _ome_planes(self._file) if page.samplesperpixel == 1 else 1
        if channels > 1:
            raise BadInputError(
                f"{self._path} holds {channels} planes in one image, expected one grey or RGB picture"
            )
        check_fits_memory(self._path, _block_size(page))

    def read_block(self, level: int, column: int, row: int) -> np.ndarray:
        page = self._pages[level]
        width, height = self.blocks[level]
        x, y = column * width, row * height
        right, bottom = min(x + width, page.imagewidth), min(y + height, page.imagelength)
        separate = page.planarconfig == 2
        block = np.zeros((bottom - y, right - x, page.samplesperpixel), np.uint8)
        per_row = math.ceil(page.imagewidth / width)
        step = page.tilelength if page.is_tiled else page.rowsperstrip
        per_plane = per_row * math.ceil(page.imagelength / step)
        for plane in range(page.samplesperpixel if separate else 1):
            channel = slice(plane, plane + 1) if separate else slice(None)
            for top in range(y, bottom, step):
                tile = self._segment(page, plane * per_plane + top // step * per_row + column)
                if tile is not None:
                    part = tile[: bottom - top, : right - x]
                    block[top - y : top - y + part.shape[0], : part.shape[1], channel] = part
        return _rgb(page, block)

    def _segment(self, page: Any, index: int) -> np.ndarray | None:
        """One strip or tile `(rows, cols, sample)`; None where the file leaves it out."""
        size = page.databytecounts[index]
        if size == 0:
            return None
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[index])
            coded = self._file.filehandle.read(size)
        tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
        try:
            decoded = page.decode(coded, index, **tables)[0]
        except Exception as error:  # each codec raises its own
            raise BadInputError(f"{self._path} is damaged at strip or tile {index}: {error}") from error
        return decoded[0]

    def close(self) -> None:
        self._file.close()


def _levels(file: tifffile.TiffFile) -> list[Any]:
    """The largest picture first, then those made smaller from it."""
    first: Any = file.pages[0]
    smaller = list(first.pages or []) if first.subifds else []
    smaller += [
        page for page in list(file.pages)[1:] if isinstance(page, tifffile.TiffPage) and page.is_reduced
    ]
    levels = [first]
    for page in sorted(smaller, key=lambda one: -one.imagewidth):
        if page.imagewidth < levels[-1].imagewidth and _is_smaller_copy(first, page):
            levels.append(page)
    return levels


def _is_smaller_copy(first: Any, page: Any) -> bool:
    factor = first.imagewidth / page.imagewidth
    same_kind = (page.samplesperpixel, page.dtype) == (first.samplesperpixel, first.dtype)
    return same_kind and abs(first.imagelength / factor - page.imagelength) < 2


def _block_size(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    rows = min(page.rowsperstrip, page.imagelength)
    return page.imagewidth, rows * max(1, STRIPS_PX // rows)


def _rgb(page: Any, block: np.ndarray) -> np.ndarray:
    kind = page.photometric.name
    if kind == "PALETTE":
        return (page.colormap >> 8).astype(np.uint8)[:, block[..., 0]].transpose(1, 2, 0)
    if block.shape[-1] < 3:
        grey = 255 - block[..., :1] if kind == "MINISWHITE" else block[..., :1]
        block = np.concatenate([grey.repeat(3, axis=-1), block[..., 1:]], axis=-1)
    return on_white(block) if block.shape[-1] == 4 else block


def _um_of(file: tifffile.TiffFile, page: Any) -> float | None:
    """From the OME header, else from the resolution tags; None where neither can be meant."""
    pixels = _ome_pixels(file)
    if pixels is not None and pixels.get("PhysicalSizeX"):
        edges = [_ome_um(pixels, axis) for axis in "XY"]
        return square(edges[0], edges[1])
    unit = UM_OF_RESOLUTION_UNIT.get(int(page.resolutionunit or 0))
    if unit is None:
        return None
    edges = [plausible_um(unit / per_unit) if per_unit else None for per_unit in page.resolution]
    return square(edges[0], edges[1])


def _ome_um(pixels: Any, axis: str) -> float | None:
    unit = UM_OF_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return plausible_um(float(pixels.get(f"PhysicalSize{axis}", "nan")) * unit) if unit else None
    except ValueError:
        return None


def _ome_planes(file: tifffile.TiffFile) -> int:
    """Channels, depths and times of an OME image; 1 where it has no OME header."""
    pixels = _ome_pixels(file)
    if pixels is None:
        return 1
    sizes = {axis: pixels.get(f"Size{axis}", "1") for axis in "CZT"}
    if not all(size.isdecimal() for size in sizes.values()):
        raise BadInputError(
            f"{file.filehandle.path} has an OME header with sizes {sizes}, expected whole numbers"
        )
    return math.prod(int(size) for size in sizes.values())


def _ome_pixels(file: tifffile.TiffFile) -> Any | None:
    """The first image's <Pixels>."""
    text = file.ome_metadata
    if text is None:
        return None
    try:
        root = ElementTree.fromstring(text.encode())
    except (ParseError, DefusedXmlException) as error:
        raise BadInputError(f"{file.filehandle.path} has an OME header that is no XML: {error}") from error
    return root.find(".//{*}Pixels")
