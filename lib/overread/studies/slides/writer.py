"""A slide's file: a tiled, pyramidal TIFF with JPEG tiles, written while it is painted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from shapely import affinity
from shapely.geometry import Polygon

from overread.domain import BadInputError
from overread.studies.slides.architecture import build
from overread.studies.slides.centres import Centre, centre_named
from overread.studies.slides.painter import EMPTY, Painter
from overread.studies.slides.scanner import MARGIN_PX, scan

TILE_PX = 512
# Each level has a quarter of the columns and rows of the one before, so that four tiles each way make one.
STEP = 4
BLOCK_PX = TILE_PX * STEP
# What is painted at once: small enough for the processor's cache to be of use.
PAINTED_PX = 512
SMALLEST_PX = 256


@dataclass(frozen=True, eq=False)
class SlideTruth:
    """What is known about a made-up slide.

    Attributes:
        outlines: the tumour's polygons, with holes, in level-0 pixels; none where there is no tumour.
    """

    outlines: tuple[Polygon, ...]


@dataclass(frozen=True, eq=False)
class _Block:
    """A square of tiles: level 0 and one tile of level 1 as JPEG, and what level 2 is made of."""

    tiles: list[list[bytes]]
    quarter: bytes
    sixteenth: np.ndarray


def make_slide(
    path: Path,
    *,
    centre: str,
    size_px: tuple[int, int],
    seed: int,
    um_per_px: float = 0.5,
    tumour: bool = True,
    progress: Callable[[float], None] | None = None,
    workers: int | None = None,
) -> SlideTruth:
    """Write an H&E slide that OpenSlide, QuPath and tifffile open, and return where the tumour is.

    The same seed and size have the same tissue and the same outlines at every centre. The file does not depend on
    the number of workers. Memory grows with the maps at 4 µm (about 60 bytes per cell), not with the pixels.

    Args:
        path: `.tif` or `.tiff`.
        centre: a name in `CENTRES`.
        size_px: width and height.
        progress: is told the share that is done.
        workers: threads; None takes one for each core.

    Raises:
        BadInputError: no such centre, or a slide too small for tissue to be on it.
    """
    width, height = size_px
    laboratory = centre_named(centre)
    if min(size_px) < SMALLEST_PX:
        raise BadInputError(
            f"a slide of {width} x {height} pixels is too small, at least {SMALLEST_PX} x {SMALLEST_PX} are needed"
        )
    architecture = build(seed, (width * um_per_px, height * um_per_px), tumour)
    painter = Painter(architecture, um_per_px)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tifffile.TiffWriter(path, bigtiff=True) as file,
    ):
        _write(file, pool, painter, laboratory, size_px, progress)
    outlines = (affinity.scale(p, 1 / um_per_px, 1 / um_per_px, origin=(0, 0)) for p in architecture.outlines)
    return SlideTruth(tuple(outline for outline in outlines if isinstance(outline, Polygon)))


def _write(
    file: tifffile.TiffWriter,
    pool: ThreadPoolExecutor,
    painter: Painter,
    centre: Centre,
    size_px: tuple[int, int],
    progress: Callable[[float], None] | None,
) -> None:
    width, height = size_px
    columns, rows = (-(-edge // BLOCK_PX) for edge in size_px)
    quality = centre.scanner.jpeg_quality
    quarters: list[bytes] = []
    small = np.full((rows * TILE_PX // STEP, columns * TILE_PX // STEP, 3), 255, np.uint8)

    def level_0() -> Iterator[bytes]:
        tiles_across, tiles_down = -(-width // TILE_PX), -(-height // TILE_PX)
        for row, blocks in enumerate(_in_rows(pool, painter, centre, size_px)):
            for column, block in enumerate(blocks):
                quarters.append(block.quarter)
                edge = TILE_PX // STEP
                small[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] = block.sixteenth
            for line in range(min(STEP, tiles_down - row * STEP)):
                tiles = [tile for block in blocks for tile in block.tiles[line]]
                yield from tiles[:tiles_across]
            if progress is not None and row + 1 < rows:
                progress((row + 1) / rows)

    def write(tiles: Iterator[bytes], level: int) -> None:
        at = painter.um_per_px * STEP**level
        file.write(
            tiles,
            shape=(-(-height // STEP**level), -(-width // STEP**level), 3),
            dtype=np.uint8,
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            tile=(TILE_PX, TILE_PX),
            # Pixels per centimetre.
            resolution=(1e4 / at, 1e4 / at),
            resolutionunit="CENTIMETER",
            subfiletype=1 if level else 0,
            software="Overread" if not level else None,
            description=f"Computed H&E, centre {centre.name}" if not level else None,
            metadata=None,
        )

    write(level_0(), 0)
    # The last row is handed over before anybody could say so.
    if progress is not None:
        progress(1.0)
    write(iter(quarters), 1)
    level, picture = 2, small
    while True:
        edges = -(-height // STEP**level), -(-width // STEP**level)
        picture = picture[: edges[0], : edges[1]]
        write(_jpegs(picture, quality), level)
        if max(edges) <= TILE_PX:
            return
        even = np.pad(picture, [(0, -edge % STEP) for edge in edges] + [(0, 0)], mode="edge")
        picture, level = _shrunk(even), level + 1


def _in_rows(
    pool: ThreadPoolExecutor, painter: Painter, centre: Centre, size_px: tuple[int, int]
) -> Iterator[list[_Block]]:
    """Rows of blocks in order; the next row is being made while one is written."""
    columns, rows = (-(-edge // BLOCK_PX) for edge in size_px)
    waiting: deque[list[Future[_Block]]] = deque()
    for row in range(rows + 1):
        if row < rows:
            waiting.append(
                [pool.submit(_block, painter, centre, size_px, column, row) for column in range(columns)]
            )
        if row:
            yield [future.result() for future in waiting.popleft()]


def _block(painter: Painter, centre: Centre, size_px: tuple[int, int], column: int, row: int) -> _Block:
    picture = np.empty((BLOCK_PX, BLOCK_PX, 3), np.uint8)
    picture[:] = np.array(centre.scanner.glass, np.uint8)
    left, top = column * BLOCK_PX, row * BLOCK_PX
    for y in range(0, min(BLOCK_PX, size_px[1] - top), PAINTED_PX):
        for x in range(0, min(BLOCK_PX, size_px[0] - left), PAINTED_PX):
            picture[y : y + PAINTED_PX, x : x + PAINTED_PX] = painted(painter, centre, left + x, top + y)
    quality = centre.scanner.jpeg_quality
    tiles = list(_jpegs(picture, quality))
    quarter = _shrunk(picture)
    across = BLOCK_PX // TILE_PX
    return _Block(
        [tiles[first : first + across] for first in range(0, len(tiles), across)],
        next(_jpegs(quarter, quality)),
        _shrunk(quarter),
    )


def painted(painter: Painter, centre: Centre, x: int, y: int, edge: int = PAINTED_PX) -> np.ndarray:
    """A square of the slide as the scanner sees it, (edge, edge, 3) uint8."""
    around = (x - MARGIN_PX, y - MARGIN_PX, edge + 2 * MARGIN_PX, edge + 2 * MARGIN_PX)
    dyes = painter.dyes(*around)
    if dyes is None:
        dyes = np.full((2, around[3], around[2]), EMPTY, np.float32)
    seed = painter.architecture.seed
    offset = (x // edge * 7919 + y // edge * 104729 + seed * 611953) * 37
    return scan(dyes, painter.ink(*around), centre, painter.um_per_px, offset)


def _jpegs(picture: np.ndarray, quality: int) -> Iterator[bytes]:
    """The picture's tiles by rows, those at its edges filled up with what lies next to them."""
    rows, columns = picture.shape[:2]
    for y in range(0, rows, TILE_PX):
        for x in range(0, columns, TILE_PX):
            tile = picture[y : y + TILE_PX, x : x + TILE_PX]
            if tile.shape[:2] != (TILE_PX, TILE_PX):
                tile = np.pad(tile, [(0, TILE_PX - edge) for edge in tile.shape[:2]] + [(0, 0)], mode="edge")
            yield bytes(
                imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(tile),
                    level=quality,
                    colorspace="rgb",
                    outcolorspace="ycbcr",
                    subsampling="420",
                )
            )


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """Mean of every four by four pixels."""
    rows, columns = (edge // STEP for edge in picture.shape[:2])
    summed = picture.reshape(rows, STEP, columns * STEP, 3).sum(axis=1, dtype=np.uint16)
    summed = summed.reshape(rows, columns, STEP, 3).sum(axis=2, dtype=np.uint16)
    return ((summed + STEP**2 // 2) // STEP**2).astype(np.uint8)
