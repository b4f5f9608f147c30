"""The close look at a slide, in steps that can be kept and continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from overread.domain import Region
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.slides.maps import SlideMaps
from overread.ensemble.slides.prediction import SlideOptions, predict_slide
from overread.imaging.slides.slide import Slide


class CloseLook:
    """Replaces, row by row, what a first look said about a slide.

    Args:
        maps: of the first look, or as an earlier close look left them; they are written to.
        rows_done: rows of cells that an earlier close look had done.
    """

    def __init__(self, maps: SlideMaps, rows_done: int = 0) -> None:
        self.maps, self.rows_done = maps, rows_done
        self._fresh = blank_like(maps)
        self._begin = rows_done

    def look(
        self,
        ensemble: Ensemble,
        slide: Slide,
        options: SlideOptions,
        device: torch.device | str = "cpu",
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Look at the rest; what `progress` raises ends it, and `take` then keeps what was done.

        Args:
            progress: told the share of the rest that is done.
        """
        rows = self.maps.shape[0]
        if self._begin < rows and self.maps.tissue[self._begin :].any():
            below = self.maps.region_of((slice(self._begin, rows), slice(0, self.maps.shape[1])))
            predict_slide(
                ensemble,
                slide,
                region=Region(0, below.y, slide.size_px[0], slide.size_px[1] - below.y),
                options=options,
                device=device,
                maps=self._fresh,
                progress=progress,
            )
        self.take()
        self.rows_done = rows
        self.maps.is_coarse = False

    def take(self) -> None:
        """Put what was looked at so far into the maps."""
        fresh = self._fresh.known
        self.maps.known |= fresh
        for old, new in zip(_fields(self.maps), _fields(self._fresh), strict=True):
            np.copyto(old, new, where=fresh)
        missing = self.maps.tissue[self._begin :] & ~fresh[self._begin :]
        rows = np.flatnonzero(missing.any(axis=1))
        self.rows_done = self._begin + (int(rows[0]) if len(rows) else len(missing))


def blank_like(maps: SlideMaps) -> SlideMaps:
    """Maps of the same slide about which nothing was said yet."""
    probability = np.zeros_like(maps.probability)
    probability[0] = 1
    return replace(
        maps,
        known=np.zeros_like(maps.known),
        is_coarse=False,
        probability=probability,
        maps={name: np.zeros_like(values) for name, values in maps.maps.items()},
        class_doubt=np.zeros_like(maps.class_doubt),
        sizes=np.zeros_like(maps.sizes),
        overlaps=np.zeros_like(maps.overlaps),
    )


def _fields(maps: SlideMaps) -> list[np.ndarray]:
    by_name = [maps.maps[name] for name in sorted(maps.maps)]
    return [maps.probability, maps.class_doubt, maps.sizes, maps.overlaps, *by_name]
