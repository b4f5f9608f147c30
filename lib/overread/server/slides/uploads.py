"""What may be uploaded to a folder of slides: slides, and pictures of their patches."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from overread.domain import BadInputError
from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.imaging.slides.slide import SLIDE_SUFFIXES, open_slide

PATCH_SUFFIX = ".png"
# Formats of several files: an index, and pictures that an upload of one file would leave behind.
OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu")


def slide_suffix(name: str) -> str:
    """The last suffix of a slide's file name, as it was written.

    Raises:
        BadInputError: no kind of slide that is read here, or one that consists of several files.
    """
    lower = name.lower()
    if lower.endswith(OF_SEVERAL_FILES):
        raise BadInputError(
            f"{name} is one of several files that make the slide; put it into the studies folder with the "
            "others"
        )
    if not lower.endswith(SLIDE_SUFFIXES):
        raise BadInputError(
            f"{name} is of no kind of slide that is read here: {', '.join(sorted(SLIDE_SUFFIXES))}"
        )
    return Path(name).suffix


def check_slide(path: Path, image_id: str, assumed: PixelSize) -> None:
    """Raise BadInputError unless the file can be opened as a slide and its last pixels be read."""
    try:
        with open_slide(path, assumed) as slide:
            width, height = slide.size_px
            slide.read_into(Region(width - 1, height - 1, 1, 1), (1, 1))
    except BadInputError as error:
        raise BadInputError(f"image {image_id}: {str(error).replace(str(path), path.name)}") from error


def check_patch(path: Path, place: PatchLocation, bounds: Region) -> None:
    """Raise BadInputError unless the file is a picture of that place, at whatever size.

    Args:
        bounds: of the slide. What a patch has beyond them may be missing in its picture.
    """
    if path.suffix.lower() != PATCH_SUFFIX:
        raise BadInputError(
            f"patch {place.name} came as {path.suffix or 'a file without suffix'}, expected PNG"
        )
    inside = place.region.intersection(bounds)
    if inside is None:
        raise BadInputError(
            f"patch {place.name} lies outside its slide, which has {bounds.width} x {bounds.height} pixels"
        )
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            width, height = picture.size
            if width * height > place.region.area_px:
                raise BadInputError(
                    f"patch {place.name} came with {width} x {height} pixels, more than the slide has there"
                )
            picture.load()
    except BadInputError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders raise on a broken file
        sentence = str(error).replace(str(path), path.name)
        raise BadInputError(f"the picture of patch {place.name} cannot be read: {sentence}") from error
    if not any(_fits(width, height, region) for region in (place.region, inside)):
        raise BadInputError(
            f"patch {place.name} came with {width} x {height} pixels, which is another shape than its name says"
        )


def _fits(width: int, height: int, region: Region) -> bool:
    """Whether the edges have one scale, each of them rounded to a pixel."""
    return abs(width * region.height - height * region.width) <= region.width + region.height
