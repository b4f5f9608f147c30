"""A slide in the colours that a model was trained on, whichever laboratory stained it.

A slide's colours also tell how much tumour it holds; those of all slides of a laboratory tell how it stains. So where
`patients.csv` beside the slides says a centre, the mean over slides of that centre stands for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from overread.domain import OverreadError
from overread.domain.slides import PixelSize, Region
from overread.imaging.patients import FILE as PATIENTS
from overread.imaging.patients import read_origins
from overread.imaging.slides.colours import map_between, mean_moments, recoloured
from overread.imaging.slides.files import state_of
from overread.imaging.slides.slide import Slide, find_slides, open_slide, slide_id
from overread.imaging.slides.tissue import find_tissue
from overread.imaging.volumes import Volume

# Of a slide so many squares of tissue of that edge are measured; of a picture that is no larger than that, all of it.
SQUARES, SQUARE_PX = 16, 128
WHOLE_PX = 1024
# Cells in which tissue is looked for.
FINEST_UM = 8.0
# Of a centre so many slides are measured, always the same ones as long as they are there.
OF_A_CENTRE = 16
# Slides whose colours are remembered.
REMEMBERED = 4096


def normalised(slide: Slide, reference: np.ndarray | None, at: PixelSize) -> Slide:
    """The slide in the reference's colours; as it is without one.

    Args:
        reference: moments `(3, 3)`, see `colours`.
        at: pixel size at which it is looked at.
    """
    if reference is None:
        return slide
    return slide.recoloured(map_between(colours_around(slide, at), reference))


def colours_around(slide: Slide, at: PixelSize) -> np.ndarray:
    """How tissue is coloured where the slide was stained, moments `(3, 3)`: mean over `slides_around`, or over
    `slide.alike` where that is said. Those that cannot be read just now are left out.

    Args:
        at: pixel size at which it is looked at.

    Raises:
        BadInputError: `patients.csv` beside the slide is broken.
    """
    found = []
    for path in slide.alike or slides_around(slide.path):
        try:
            found.append(_measured(path, state_of(path), slide.pixel_size.um, at.um))
        except (OverreadError, OSError):
            continue
    return np.mean(found, axis=0) if found else colours_of_slide(slide, at)


def picture_in_colours(picture: Volume, reference: np.ndarray) -> Volume:
    """A picture of which no slide is known, `(3, x, y)` of 0 to 255, from its own colours to the reference's."""
    pixels = np.moveaxis(picture.voxels, 0, -1).round().astype(np.uint8)
    turned = recoloured(pixels, map_between(mean_moments([pixels]), reference))
    return replace(picture, voxels=np.moveaxis(turned, -1, 0).astype(picture.voxels.dtype))


def slides_around(path: Path) -> tuple[Path, ...]:
    """Slides beside this one that are of the same centre, as `patients.csv` there says; itself where it says nothing.

    Raises:
        BadInputError: `patients.csv` is broken.
    """
    centres = _centres_beside(path)
    centre = centres.get(slide_id(path), "")
    if not centre:
        return (path,)
    slides = find_slides(path.parent).slides
    return some_of([file for name, file in slides.items() if centres.get(name) == centre]) or (path,)


def centre_of(path: Path) -> str:
    """The centre of a slide, as `patients.csv` beside it says; empty where it says nothing.

    Raises as `slides_around`.
    """
    return _centres_beside(path).get(slide_id(path), "")


def some_of(slides: Sequence[Path]) -> tuple[Path, ...]:
    """At most `OF_A_CENTRE` of a centre's slides; a slide more changes the choice little."""
    return tuple(sorted(slides, key=lambda path: sha256(path.name.encode()).digest())[:OF_A_CENTRE])


def colours_of_slide(slide: Slide, at: PixelSize) -> np.ndarray:
    """How a slide's tissue is coloured, moments `(3, 3)`; the same whenever it is asked.

    Args:
        at: pixel size at which it is looked at.
    """
    zoom = slide.pixel_size / at
    if max(slide.size_px) * zoom <= WHOLE_PX:
        return mean_moments([slide.read(slide.bounds, at)])
    # Coarser on a large slide: a clinician may be waiting, and all slides of a centre are measured.
    finest = max(FINEST_UM, max(slide.size_px) * slide.pixel_size.um / WHOLE_PX)
    tissue = find_tissue(slide, PixelSize(finest))
    cells = np.argwhere(tissue.mask)
    if not len(cells):
        return mean_moments([slide.thumbnail(WHOLE_PX)])
    rng = np.random.default_rng(slide.size_px)
    edge, cell = max(1, round(SQUARE_PX / zoom)), tissue.cell / slide.pixel_size
    squares = []
    for row, column in cells[rng.permutation(len(cells))[:SQUARES]]:
        x, y = round((column + 0.5) * cell - edge / 2), round((row + 0.5) * cell - edge / 2)
        squares.append(slide.read(Region(x, y, edge, edge), at))
    return mean_moments(squares)


def _centres_beside(slide: Path) -> dict[str, str]:
    table = slide.parent / PATIENTS
    return _centres(table, state_of(table)) if table.exists() else {}


@lru_cache(maxsize=16)
def _centres(table: Path, _state: tuple[int, int]) -> dict[str, str]:
    return {case: origin.centre for case, origin in read_origins(table.parent).items()}


@lru_cache(maxsize=REMEMBERED)
def _measured(path: Path, _state: tuple[int, int], um: float, at_um: float) -> np.ndarray:
    """Of a file as it is now; of a slide that does not tell its pixel size, `um` says it."""
    with open_slide(path, PixelSize(um)) as slide:
        return colours_of_slide(slide, PixelSize(at_um))
