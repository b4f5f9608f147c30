"""Candidate tables kept between questions, so that a question reads no map twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from overread.domain import PixelSize
from overread.ensemble.slides.maps import SlideMaps
from overread.queue.patches.candidates import PatchTable, default_patch_px, patch_table, patch_within
from overread.queue.patches.strategies import EXTRAS

# Sizes of patches of which tables are kept, for each slide; viewers use one.
KEPT_SIZES = 2


@dataclass(frozen=True, eq=False)
class SlideEntry:
    """A slide that may be asked about.

    Attributes:
        maps: what the champion says of the slide so far; None where it was never looked at.
        patient: whose it is.
        centre: where it was made; slides of one centre share a quota.
        size_px: width and height in level-0 pixels.
        pixel_size: of level 0.
        version: changes whenever `maps` would answer something else, so that maps are only read then. Where None,
            `maps` is called each time, and another object, or more cells that are known, is another version.
    """

    maps: Callable[[], SlideMaps | None]
    patient: str
    centre: str
    size_px: tuple[int, int]
    pixel_size: PixelSize
    version: Hashable | None = None


class PatchTables:
    """Tables by slide and size of patch; threads may share one. Two that need the same at once both compute it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._kept: dict[str, OrderedDict[tuple[int, int], tuple[Hashable, PatchTable | None]]] = {}

    def of(
        self,
        slide: str,
        entry: SlideEntry,
        patch_px: tuple[int, int] | None,
        strategies: tuple[str, ...] = (),
        is_stale_enough: bool = False,
    ) -> PatchTable | None:
        """The slide's candidates with what these strategies need; None where the slide was never looked at.

        Args:
            is_stale_enough: a table of an earlier version will do, if there is one; for callers that cannot wait.
        """
        size = patch_within(entry.size_px, patch_px or default_patch_px(entry.size_px, entry.pixel_size))
        maps = None
        version = entry.version
        if version is None:
            maps = entry.maps()
            # Maps may gain cells while they are looked at.
            version = None if maps is None else (id(maps), int(np.count_nonzero(maps.known)), maps.is_coarse)
            is_stale_enough = False
        wanted = [name for name in strategies if name in EXTRAS]
        with self._guard:
            kept_version, table = self._kept.get(slide, {}).get(size, (None, None))
        is_current = version is not None and kept_version == version
        if table is None and is_current:
            return None
        if (
            table is not None
            and (is_current or is_stale_enough)
            and all(name in table.extras for name in wanted)
        ):
            return table
        maps = maps or entry.maps()
        if not is_current or table is None:
            table = None if maps is None else patch_table(slide, maps, size)
        if table is not None and maps is not None:
            table.extras.update(
                {name: EXTRAS[name](table, maps) for name in wanted if name not in table.extras}
            )
        with self._guard:
            sizes = self._kept.setdefault(slide, OrderedDict())
            sizes[size] = (version, table)
            sizes.move_to_end(size)
            while len(sizes) > KEPT_SIZES:
                sizes.popitem(last=False)
        return table

    def keep_only(self, slides: Mapping[str, SlideEntry]) -> None:
        """Forget slides that are gone."""
        with self._guard:
            for slide in self._kept.keys() - slides.keys():
                del self._kept[slide]
