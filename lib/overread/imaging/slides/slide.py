"""Whole slides: one way to read any of them, in µm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from overread.domain.slides import PixelSize, Region

ASSUMED = PixelSize(0.5)
SLIDE_SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".png", ".jpg", ".jpeg",
    ".bif", ".svslide", ".vms", ".vmu",
)  # fmt: skip


class Slide:
    """A whole-slide image that reads any region at any pixel size."""

    path: Path
    id: str
    size_px: tuple[int, int]
    pixel_size: PixelSize
    is_pixel_size_assumed: bool
    downsamples: tuple[float, ...]

    @property
    def bounds(self) -> Region:
        """The whole slide."""
        raise NotImplementedError

    def read(self, region: Region, at: PixelSize) -> np.ndarray:
        """(round(h*ps/at), round(w*ps/at), 3) uint8."""
        raise NotImplementedError

    def read_into(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """The same in (width, height) pixels exactly."""
        raise NotImplementedError

    def thumbnail(self, longest_px: int = 1024) -> np.ndarray:
        """The whole slide, small."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Found:
    """Slides of a folder by id, and what was not usable in it, in words."""

    slides: dict[str, Path]
    problems: list[str]


def open_slide(path: Path, assumed: PixelSize = ASSUMED) -> Slide:
    """Open a slide."""
    raise NotImplementedError


def slide_id(path: Path) -> str:
    """As QuPath makes image ids: the file name up to its last dot."""
    return Path(path).stem


def find_slides(folder: Path) -> Found:
    """The slides that lie in a folder."""
    raise NotImplementedError
