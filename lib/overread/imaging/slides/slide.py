"""Whole slides: one way to read any of them, in µm."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide

from overread.domain.errors import BadInputError, NotFoundError, OverreadError
from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.colours import recoloured
from overread.imaging.slides.files import MIRAX_INDEX, folder_beside, state_of
from overread.imaging.slides.sampling import Sampler
from overread.imaging.slides.sources import OpenSlideSource, PictureSource, Source, assumed_size
from overread.imaging.slides.tiff import TiffSource

ASSUMED = PixelSize(0.5)
TIFF_SUFFIXES = (".tif", ".tiff", ".ome.tif", ".ome.tiff")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
VENDOR_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu")
SLIDE_SUFFIXES = VENDOR_SUFFIXES + TIFF_SUFFIXES + PICTURE_SUFFIXES


class Slide:
    """A whole-slide image that reads any region at any pixel size. Made by `open_slide`.

    Pictures are `(row, column, 3)` uint8 RGB. What lies outside the slide, or was not scanned, is white. Where a
    format tells which part of the glass was scanned (MIRAX, Leica), that part is the slide, as in QuPath.

    Attributes:
        path: its file.
        id: its name for QuPath and the server.
        size_px: (width, height) of level 0.
        pixel_size: of level 0.
        is_pixel_size_assumed: the header does not say it.
        downsamples: of each level, 1.0 first.
        rank: how well the file's format suits slides.
        alike: slides that were stained where this one was; empty where nobody said (see `normalised`).
    """

    def __init__(self, path: Path, source: Source, assumed: PixelSize, alike: tuple[Path, ...] = ()) -> None:
        self.path, self.alike = path, alike
        self.id = slide_id(path)
        self.size_px = source.sizes[0]
        self.is_pixel_size_assumed = source.um is None
        self.pixel_size = assumed_size(source, assumed) if source.um is None else PixelSize(source.um)
        self.rank = source.rank
        self._source = source
        self._sampler = Sampler(source)
        self._matrix: np.ndarray | None = None
        self.downsamples = self._sampler.downsamples

    def recoloured(self, matrix: np.ndarray) -> Slide:
        """The same slide as another laboratory would have stained it; closing either closes both.

        Args:
            matrix: from `colours.map_between`.
        """
        other = copy.copy(self)
        other._matrix = matrix
        return other

    @property
    def bounds(self) -> Region:
        """The whole slide."""
        return Region(0, 0, *self.size_px)

    def read(self, region: Region, at: PixelSize) -> np.ndarray:
        """What a region shows at that pixel size, from the level that is just fine enough.

        Returns:
            `(round(height), round(width), 3)` uint8 in pixels of that size, at least one each way.
        """
        zoom = self.pixel_size / at
        return self.read_into(
            region, (max(1, round(region.width * zoom)), max(1, round(region.height * zoom)))
        )

    def read_into(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """The same in exactly (width, height) pixels."""
        x, y, width, height = region.bbox
        return self.read_box((x, y, x + width, y + height), size)

    def read_box(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Between level-0 places (left, top, right, bottom), which may lie within pixels; in (width, height) pixels."""
        with _as_bad_input(self.path):
            picture = self._sampler.read_box(box, size)
        return picture if self._matrix is None else recoloured(picture, self._matrix)

    def thumbnail(self, longest_px: int = 1024) -> np.ndarray:
        """The whole slide, its longer edge at most so many pixels."""
        shrink = max(1.0, max(self.size_px) / longest_px)
        width, height = (max(1, round(edge / shrink)) for edge in self.size_px)
        return self.read_into(self.bounds, (width, height))

    def close(self) -> None:
        """Let go of the file."""
        self._sampler.close()
        self._source.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_slide(path: Path, assumed: PixelSize = ASSUMED, alike: tuple[Path, ...] = ()) -> Slide:
    """Open a slide: through OpenSlide what scanners write, through tifffile other TIFF, else as a plain picture.

    Args:
        path: the file; of a MIRAX slide the `.mrxs` beside its folder.
        assumed: pixel size where the header has neither that nor the magnification.
        alike: see `Slide`.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: it is no slide, is damaged, has more than 8 bits or other channels than grey or RGB, or
            could only be decoded as a whole and is too large for that.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist")
    with _as_bad_input(path):
        return Slide(path, _source_of(path), assumed, alike)


@contextmanager
def _as_bad_input(path: Path) -> Iterator[None]:
    """What the formats' libraries raise on a broken file, which may be anything, says that the file is broken."""
    try:
        yield
    except OverreadError:
        raise
    except Exception as error:
        raise BadInputError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def _source_of(path: Path) -> Source:
    name = path.name.lower()
    if not name.endswith(SLIDE_SUFFIXES):
        raise BadInputError(f"{path} is no slide; slides end in {', '.join(SLIDE_SUFFIXES)}")
    if name.endswith(PICTURE_SUFFIXES):
        return PictureSource(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor not in (None, "generic-tiff"):
        return OpenSlideSource(path)
    folder = folder_beside(path)
    if vendor is None and folder is not None and not (folder / MIRAX_INDEX).is_file():
        raise BadInputError(
            f"{path} cannot be read: beside it must lie the folder {folder.name!r} with {MIRAX_INDEX} and the pixels"
        )
    if not name.endswith(TIFF_SUFFIXES) and vendor is None:
        raise BadInputError(f"{path} cannot be read: OpenSlide does not recognise it as a slide")
    # Of what no scanner's maker shaped, OpenSlide takes ten times as long a tile, reads 16 bits as 8, of an OME pyramid
    # only the finest level, and JPEG 2000 not at all.
    return TiffSource(path)


def slide_id(path: Path) -> str:
    """As QuPath's extension makes image ids: the file's name up to its last dot, so `a.ome.tif` is `a.ome`."""
    return Path(path).stem


@dataclass(frozen=True)
class Found:
    """Slides of a folder by id, and what was not usable in it, in words."""

    slides: dict[str, Path]
    problems: list[str]


def find_slides(folder: Path) -> Found:
    """The slides that lie in a folder (not below it), by id.

    Only what ends as slides do is looked at, so no annotation or table hides a slide. Pixels are not decoded; what
    was found about a file is kept for as long as its size and time of change stay.

    Raises:
        NotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} does not exist or is no folder")
    files = [path for path in sorted(folder.iterdir()) if _looks_like_slide(path)]
    parts = {part for path in files if path.suffix.lower() in (".vms", ".vmu") for part in _parts_of(path)}
    best: dict[str, tuple[int, Path]] = {}
    problems: list[str] = []
    for path in files:
        if path.name in parts:
            continue
        rank, problem = _probe(path, state_of(path))
        if problem:
            problems.append(problem)
            continue
        name = slide_id(path)
        if name not in best:
            best[name] = (rank, path)
            continue
        kept, left = sorted([best[name], (rank, path)], key=lambda one: -one[0])
        best[name] = kept
        problems.append(f"{left[1].name} is left out: {kept[1].name} is the same slide by its name")
    return Found({name: path for name, (_, path) in best.items()}, problems)


def _looks_like_slide(path: Path) -> bool:
    return path.name.lower().endswith(SLIDE_SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _parts_of(index: Path) -> list[str]:
    """Names of the pictures that a Hamamatsu VMS or VMU index puts together."""
    lines = index.read_text(errors="replace").splitlines()
    return [
        line.partition("=")[2].strip()
        for line in lines
        if line.startswith(("ImageFile", "MapFile", "MacroImage"))
    ]


@lru_cache(maxsize=4096)
def _probe(path: Path, state: tuple[int, int]) -> tuple[int, str]:
    """The format's rank, or in words why the file cannot be read."""
    try:
        with open_slide(path) as slide:
            return slide.rank, ""
    except BadInputError as error:
        return 0, str(error)
