"""A slide in the colours that a model was trained on, whichever laboratory stained it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from overread.domain.slides import PixelSize, Region
from overread.imaging.slides.colours import map_between, mean_moments
from overread.imaging.slides.files import state_of
from overread.imaging.slides.slide import Slide, open_slide
from overread.imaging.slides.tissue import find_tissue

# Of a slide so many squares of tissue of that edge are measured; of a picture that is no larger than that, all of it.
SQUARES, SQUARE_PX = 16, 128
WHOLE_PX = 1024
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
    now = _measured(slide.path, state_of(slide.path), slide.pixel_size.um, at.um)
    return slide.recoloured(map_between(now, reference))


def colours_of_slide(slide: Slide, at: PixelSize) -> np.ndarray:
    """How a slide's tissue is coloured, moments `(3, 3)`; the same whenever it is asked.

    Args:
        at: pixel size at which it is looked at.
    """
    zoom = slide.pixel_size / at
    if max(slide.size_px) * zoom <= WHOLE_PX:
        return mean_moments([slide.read(slide.bounds, at)])
    tissue = find_tissue(slide)
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


@lru_cache(maxsize=REMEMBERED)
def _measured(path: Path, _state: tuple[int, int], um: float, at_um: float) -> np.ndarray:
    """Of a file as it is now; of a slide that does not tell its pixel size, `um` says it."""
    with open_slide(path, PixelSize(um)) as slide:
        return colours_of_slide(slide, PixelSize(at_um))
