"""Places on whole-slide images: how large a pixel is, and which rectangle is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from overread.domain.errors import BadInputError

# QuPath's own name of a patch that it sends: IMAGE-patch-x_y_width_height, in level-0 pixels.
PATCH_NAME = re.compile(r"(?P<slide>.+)-patch-(?P<x>\d+)_(?P<y>\d+)_(?P<width>\d+)_(?P<height>\d+)")


@dataclass(frozen=True, order=True)
class PixelSize:
    """Edge of a square pixel.

    Attributes:
        um: micrometres, above 0. 0.25 is a 40x scan, 0.5 a 20x scan, 1.0 is 10x.
    """

    um: float

    def __post_init__(self) -> None:
        if not 0 < self.um < 1e4:
            raise BadInputError(f"a pixel of {self.um} µm cannot be meant; a 20x scan has 0.5 µm per pixel")

    def __truediv__(self, other: PixelSize) -> float:
        """How many pixels of the other size lie along one of this size."""
        return self.um / other.um


@dataclass(frozen=True, order=True)
class Region:
    """A rectangle on a slide, in level-0 pixels: columns x to x + width, rows y to y + height."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise BadInputError(f"a region of {self.width} x {self.height} pixels is empty")

    @property
    def right(self) -> int:
        """First column behind it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.y + self.height

    @property
    def area_px(self) -> int:
        """Level-0 pixels in it."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """Column and row of its middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """x, y, width, height, as viewers want it."""
        return self.x, self.y, self.width, self.height

    def intersection(self, other: Region) -> Region | None:
        """What both share; None where they do not overlap."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Region(x, y, right - x, bottom - y) if right > x and bottom > y else None

    def overlaps(self, other: Region) -> bool:
        """Whether they share a pixel."""
        return self.intersection(other) is not None

    def contains(self, other: Region) -> bool:
        """Whether the other lies wholly inside."""
        return self.intersection(other) == other


@dataclass(frozen=True, order=True)
class PatchLocation:
    """A patch of a slide. Its name is the id under which labels and servings of it are kept."""

    slide: str
    region: Region

    @property
    def name(self) -> str:
        """Such as `tumour_01-patch-1024_2048_512_512`."""
        return f"{self.slide}-patch-" + "_".join(str(number) for number in self.region.bbox)

    @classmethod
    def parse(cls, name: str) -> PatchLocation | None:
        """The patch of that name; None where it is no patch's name."""
        found = PATCH_NAME.fullmatch(name)
        if found is None or not int(found["width"]) or not int(found["height"]):
            return None
        return cls(found["slide"], Region(*(int(found[part]) for part in ("x", "y", "width", "height"))))
