"""Patches of slides as cases: the picture that belongs to a label is cut out of its slide when it is needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image, PngImagePlugin

from overread.domain import BadInputError, Grid, OverreadError
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.imaging.slides.files import state_of
from overread.imaging.slides.normalised import normalised, slides_around
from overread.imaging.slides.slide import ASSUMED, Slide, find_slides, open_slide
from overread.imaging.volumes import Volume
from overread.learning.label_files import file_name

logger = logging.getLogger(__name__)

# The PNG text that says what a picture was cut from.
ORIGIN = "overread"


def label_size(location: PatchLocation, slide: PixelSize, um_per_px: float) -> tuple[int, int]:
    """Width and height of a patch's picture, and of its label, in pixels of `um_per_px`; at least one.

    Args:
        location: in level-0 pixels.
        slide: pixel size of level 0.
    """
    share = slide / PixelSize(um_per_px)
    width, height = (max(1, round(edge * share)) for edge in (location.region.width, location.region.height))
    return width, height


def picture_of(slide: Slide, region: Region, size: tuple[int, int]) -> Volume:
    """What a region of a slide shows, as a model for pictures takes it: `(channel, x, y)`, as labels of patches lie.

    Args:
        size: width and height in pixels.
    """
    picture = slide.read_into(region, size)
    voxels = np.ascontiguousarray(picture.transpose(2, 1, 0), np.float32)
    return Volume(voxels, Grid(voxels.shape[1:], np.eye(4)))


def read_patch(path: Path, location: PatchLocation, um_per_px: float, assumed: PixelSize = ASSUMED) -> Volume:
    """The picture of a patch, as large as its label.

    Raises:
        NotFoundError: the slide is not there.
        BadInputError: it cannot be read, or the patch does not lie in it.
    """
    with open_slide(path, assumed) as slide:
        if not slide.bounds.contains(location.region):
            raise BadInputError(f"{location.name} does not lie in {path}, which has {slide.size_px} pixels")
        return picture_of(slide, location.region, label_size(location, slide.pixel_size, um_per_px))


class PatchImages:
    """Pictures of patches at one pixel size, cut from the slides of a folder and kept.

        <cache>/<µm>um/<slide>/<patch>.png

    Args:
        slides: folder of the slides.
        cache: can be deleted; its pictures are cut again.
        um_per_px: pixel size of the pictures, which is the model's.
        assumed: pixel size of slides that do not tell theirs.
        reference: colours that pictures are brought to (see `imaging.slides.normalised`); None: they stay as they are.
        alike: which slides were stained where one was.
    """

    def __init__(
        self,
        slides: Path,
        cache: Path,
        um_per_px: float,
        assumed: PixelSize = ASSUMED,
        reference: np.ndarray | None = None,
        alike: Callable[[Path], tuple[Path, ...]] = slides_around,
    ) -> None:
        self.slides, self.cache = Path(slides), Path(cache)
        self.pixel_size, self.assumed = PixelSize(um_per_px), assumed
        self.reference, self.alike = reference, alike

    def image_of(self, case: str) -> Path | None:
        """The picture of a patch by the patch's name; None for other names, and where the slide is not there.

        It is cut again when the slide's file changed. A slide that cannot be read, and one that ends before the patch
        begins, count as not there, with a warning in the log.
        """
        location = PatchLocation.parse(case)
        if location is None:
            return None
        slide = find_slides(self.slides).slides.get(location.slide)
        if slide is None:
            return None
        folder = self.cache / f"{self.pixel_size.um:g}um" / file_name(location.slide)
        picture = folder / f"{file_name(case)}.png"
        try:
            origin = self._origin(slide)
            if _origin_of(picture) != origin:
                self._cut(slide, location, picture, origin)
        except (OverreadError, OSError) as error:
            logger.warning("Patch %s cannot be cut: %s", case, error)
            return None
        return picture

    def _origin(self, slide: Path) -> str:
        facts = [slide.name, *state_of(slide), self.pixel_size.um, self.assumed.um]
        if self.reference is not None:
            facts += [self.reference.tolist(), [(path.name, *state_of(path)) for path in self.alike(slide)]]
        return json.dumps(facts)

    def _cut(self, path: Path, location: PatchLocation, picture: Path, origin: str) -> None:
        alike = () if self.reference is None else self.alike(path)
        with open_slide(path, self.assumed, alike) as slide:
            if not slide.bounds.overlaps(location.region):
                raise BadInputError(f"it lies outside {path}, which has {slide.size_px} pixels")
            size = label_size(location, slide.pixel_size, self.pixel_size.um)
            pixels = normalised(slide, self.reference, self.pixel_size).read_into(location.region, size)
        text = PngImagePlugin.PngInfo()
        text.add_text(ORIGIN, origin)
        picture.parent.mkdir(parents=True, exist_ok=True)
        draft = picture.with_name(f".{uuid4().hex}.png")
        try:
            Image.fromarray(pixels).save(draft, pnginfo=text)
            draft.replace(picture)
        finally:
            draft.unlink(missing_ok=True)


def _origin_of(picture: Path) -> str | None:
    """What a picture was cut from; None where there is none that can be read."""
    try:
        with Image.open(picture) as image:
            return image.info.get(ORIGIN)
    except (OSError, SyntaxError):
        return None
