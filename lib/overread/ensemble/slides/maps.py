"""What the members said about a slide, at low power: small fields that can be kept for every slide and champion."""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np

from overread.domain import BadInputError, NotFoundError, PixelSize, Region
from overread.ensemble.ensemble import Ensemble, KindsOfDoubt
from overread.imaging.slides.slide import Slide
from overread.imaging.slides.tissue import TissueMask

# Edge of a cell: one or two cell nuclei of tissue, a ten-thousandth of a slide's pixels.
CELL = PixelSize(8.0)
# Kept of every slide; another measure is kept beside them where it was asked for.
KEPT_MEASURES = ("predictive_entropy", "mutual_information", "member_cross_entropy")
FORMAT = 1
# A cell border that falls on a pixel border may come out a hair to either side of it.
ROUNDING = 1e-6


@dataclass(eq=False)
class SlideMaps:
    """Low-power fields of one slide by one champion. Axes are (row, column); each cell holds a mean over its pixels.

    Fields of numbers are float16: they stay small for the largest slide. Sum them in float32.

    Attributes:
        slide_size_px: width and height of level 0.
        slide_pixel_size: of level 0.
        cell: edge of a cell; `CELL`, or one of the members' pixels where that is larger.
        classes: the background first.
        tissue: `(rows, columns)` bool.
        known: `(rows, columns)` bool: tissue that the members spoke about. In coarse maps that is all tissue, most of
            it guessed from the windows nearby.
        is_coarse: no more than a first look (see `glance`).
        probability: `(class, rows, columns)` mean over members.
        maps: `(rows, columns)` by measure; at least `KEPT_MEASURES`. Where the ensemble tells kinds of doubt apart
            (`Ensemble.kinds`), by kind as well; maps of earlier versions have none.
        class_doubt: `(foreground class, rows, columns)` mean of the doubt that is asked by, times the class's mean
            probability.
        sizes: `(member, foreground class, rows, columns)` share of the cell that a member calls that class.
        overlaps: `(pair, foreground class, rows, columns)` share that both members of a pair call that class.
        pairs: the two members of each pair.
        asked_by: the measure in `maps` by whose doubt the queue asks for labels (`Ensemble.asked_by`); maps of earlier
            versions name none, and have predictive entropy.
    """

    slide_size_px: tuple[int, int]
    slide_pixel_size: PixelSize
    cell: PixelSize
    classes: tuple[str, ...]
    tissue: np.ndarray
    known: np.ndarray
    is_coarse: bool
    probability: np.ndarray
    maps: dict[str, np.ndarray]
    class_doubt: np.ndarray
    sizes: np.ndarray
    overlaps: np.ndarray
    pairs: tuple[tuple[int, int], ...]
    asked_by: str = "predictive_entropy"

    @classmethod
    def empty(
        cls,
        slide: Slide,
        ensemble: Ensemble,
        tissue: TissueMask,
        *,
        members: int | None = None,
        measures: Sequence[str] = KEPT_MEASURES,
    ) -> SlideMaps:
        """Maps of a slide about which nothing was said yet: background everywhere, no doubt, nothing known.

        Args:
            members: how many will speak; all of the ensemble's by default.
        """
        cell = PixelSize(max(CELL.um, ensemble.um_per_px or 0.0))
        count = len(ensemble.members) if members is None else members
        pairs = tuple(combinations(range(count), 2))
        edge = cell / slide.pixel_size
        shape = tuple(max(1, ceil(n / edge - ROUNDING)) for n in reversed(slide.size_px))
        foreground = len(ensemble.classes) - 1
        probability = np.zeros((foreground + 1, *shape), np.float16)
        probability[0] = 1
        return cls(
            slide_size_px=slide.size_px,
            slide_pixel_size=slide.pixel_size,
            cell=cell,
            classes=ensemble.classes,
            tissue=_fitted(tissue.resized(cell).mask, shape),
            known=np.zeros(shape, bool),
            is_coarse=False,
            probability=probability,
            maps={
                name: np.zeros(shape, np.float16)
                for name in dict.fromkeys((*KEPT_MEASURES, ensemble.asked_by, *measures, *_kinds(ensemble)))
            },
            class_doubt=np.zeros((foreground, *shape), np.float16),
            sizes=np.zeros((count, foreground, *shape), np.float16),
            overlaps=np.zeros((len(pairs), foreground, *shape), np.float16),
            pairs=pairs,
            asked_by=ensemble.asked_by,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.tissue.shape[0], self.tissue.shape[1]

    @property
    def cell_px(self) -> float:
        """Edge of a cell in level-0 pixels."""
        return self.cell / self.slide_pixel_size

    def kinds_of(self, ensemble: Ensemble) -> KindsOfDoubt | None:
        """The ensemble's kinds of doubt, if these maps have room for them."""
        return ensemble.kinds if self.maps.keys() >= set(_kinds(ensemble)) else None

    def cells(self, region: Region) -> tuple[slice, slice]:
        """Rows and columns of the cells that a region touches; empty slices where it lies outside the slide."""
        slices = []
        for low, high, count in (
            (region.y, region.bottom, self.shape[0]),
            (region.x, region.right, self.shape[1]),
        ):
            start = min(max(floor(low / self.cell_px + ROUNDING), 0), count)
            stop = min(max(ceil(high / self.cell_px - ROUNDING), start), count)
            slices.append(slice(start, stop))
        return slices[0], slices[1]

    def region_of(self, cells: tuple[slice, slice]) -> Region:
        """The part of the slide that rows and columns of cells cover.

        Raises:
            BadInputError: there is no cell in them.
        """
        edges = []
        for part, count, size in zip(cells, self.shape, reversed(self.slide_size_px), strict=True):
            start, stop, _ = part.indices(count)
            low, high = (min(round(index * self.cell_px), size) for index in (start, stop))
            edges.append((low, high - low))
        return Region(edges[1][0], edges[0][0], edges[1][1], edges[0][1])

    def save(self, path: Path) -> None:
        """Write one compressed file, whole or not at all."""
        header = {
            "format": FORMAT,
            "slide_size_px": self.slide_size_px,
            "slide_um": self.slide_pixel_size.um,
            "cell_um": self.cell.um,
            "classes": self.classes,
            "is_coarse": self.is_coarse,
            "pairs": self.pairs,
            "measures": list(self.maps),
            "asked_by": self.asked_by,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(
                    file,
                    header=np.array(json.dumps(header)),
                    **{name: getattr(self, name) for name in _FIELDS},
                    **{f"map_{name}": values for name, values in self.maps.items()},
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> SlideMaps:
        """Read what `save` wrote.

        Raises:
            NotFoundError: there is no such file. BadInputError: it is damaged, or of another version.
        """
        try:
            with np.load(path) as stored:
                header: dict[str, Any] = json.loads(str(stored["header"]))
                if header["format"] != FORMAT:
                    raise BadInputError(
                        f"{path} holds maps of format {header['format']}, this version reads {FORMAT}; "
                        "delete it and they are made again"
                    )
                return cls(
                    slide_size_px=(header["slide_size_px"][0], header["slide_size_px"][1]),
                    slide_pixel_size=PixelSize(header["slide_um"]),
                    cell=PixelSize(header["cell_um"]),
                    classes=tuple(header["classes"]),
                    is_coarse=header["is_coarse"],
                    pairs=tuple((first, second) for first, second in header["pairs"]),
                    maps={name: stored[f"map_{name}"] for name in header["measures"]},
                    asked_by=header.get("asked_by", "predictive_entropy"),
                    **{name: stored[name] for name in _FIELDS},
                )
        except FileNotFoundError as error:
            raise NotFoundError(f"{path}: there are no maps of this slide yet") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, OSError) as error:
            raise BadInputError(
                f"{path} holds no maps of a slide, or is damaged ({error}); delete it and they are made again"
            ) from error


_FIELDS = ("tissue", "known", "probability", "class_doubt", "sizes", "overlaps")


def _kinds(ensemble: Ensemble) -> tuple[str, ...]:
    return () if ensemble.kinds is None else ensemble.kinds.names


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask cut, or continued without tissue, to exactly `shape`: rounding can leave a row more or less."""
    fitted = np.zeros(shape, bool)
    rows, columns = (min(a, b) for a, b in zip(mask.shape, shape, strict=True))
    fitted[:rows, :columns] = mask[:rows, :columns]
    return fitted
