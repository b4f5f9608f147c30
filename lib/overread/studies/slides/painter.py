"""Tissue at full power: how much of each dye lies in every pixel of a tile."""

from __future__ import annotations

import numpy as np

from overread.studies.slides.architecture import Architecture
from overread.studies.slides.cells import cells_of
from overread.studies.slides.fields import CELL_UM, PAD, cells_around, magnified
from overread.studies.slides.nuclei import stamps
from overread.studies.slides.structures import EPITHELIUM_UM
from overread.studies.slides.textures import textures

# Dye in the air between tissue and glass, and in what is spilt on it.
EMPTY = 0.004
# Haematoxylin and eosin of the layer that lies on top in a fold, besides what repeats the layer below.
FOLDED_OVER = (0.05, 0.11)


class Painter:
    """Paints any rectangle of one slide; neighbours fit, whatever the order and the number of threads."""

    def __init__(self, architecture: Architecture, um_per_px: float) -> None:
        self.architecture = architecture
        self.um_per_px = um_per_px
        self._textures = textures(um_per_px)
        self._stamps = stamps(um_per_px)

    def dyes(self, x: int, y: int, width: int, height: int) -> np.ndarray | None:
        """Concentrations of haematoxylin and eosin, (2, height, width) float32; None where there is no tissue.

        Args:
            x, y: left and top edge in pixels; may lie a little outside of the slide.
        """
        view = _View(self, x, y, width, height)
        if view.highest("tissue") < -6:
            return None
        dyes = _ground(view)
        for cell in cells_of(self.architecture, view.bounds_um):
            self._press(
                dyes, cell.kind, cell.variant, cell.x_um / self.um_per_px - x, cell.y_um / self.um_per_px - y
            )
        fold = view.map("fold")
        if fold is not None:
            # Another piece of the same tissue lies on top, and it is not the same place of it.
            share = _step(fold, 3)
            dyes += share * (0.5 * dyes + np.array(FOLDED_OVER, np.float32)[:, None, None])
        dyes *= view.map("thickness", always=True)
        dyes += EMPTY
        return dyes

    def ink(self, x: int, y: int, width: int, height: int) -> np.ndarray | None:
        """Density (3, height, width) of the pen; None where it has not been."""
        pen = self.architecture.pen
        view = _View(self, x, y, width, height)
        if not pen.cover[view.cells].any():
            return None
        cover = np.clip(view.magnified(pen.cover), 0, None)
        return np.stack([cover * np.float32(density) for density in pen.ink])

    def _press(self, dyes: np.ndarray, kind: str, variant: int, x: float, y: float) -> None:
        bank = self._stamps[kind]
        stamp = bank[variant % len(bank)]
        rows, columns = stamp.add.shape[1:]
        top, left = round(y) - rows // 2, round(x) - columns // 2
        first_row, first_column = max(0, -top), max(0, -left)
        last_row, last_column = min(rows, dyes.shape[1] - top), min(columns, dyes.shape[2] - left)
        if first_row >= last_row or first_column >= last_column:
            return
        under = dyes[:, top + first_row : top + last_row, left + first_column : left + last_column]
        under *= stamp.keep[:, first_row:last_row, first_column:last_column]
        under += stamp.add[:, first_row:last_row, first_column:last_column]


class _View:
    """A rectangle of a slide and the maps as they are there."""

    def __init__(self, painter: Painter, x: int, y: int, width: int, height: int) -> None:
        um = painter.um_per_px
        self.painter, self.um = painter, um
        self.x, self.y, self.width, self.height = x, y, width, height
        self.bounds_um = x * um, y * um, (x + width) * um, (y + height) * um
        shape = painter.architecture.tissue.shape
        self.cells = cells_around(shape, *(edge / CELL_UM + PAD for edge in self.bounds_um))

    def highest(self, name: str) -> float:
        """Highest value of a map near the rectangle."""
        return float(self._field(name)[self.cells].max())

    def map(self, name: str, above: float = -6.0, always: bool = False) -> np.ndarray | None:
        """A map at full power; None where it is nowhere above a value."""
        if not always and self.highest(name) < above:
            return None
        return self.magnified(self._field(name))

    def magnified(self, field: np.ndarray) -> np.ndarray:
        """A map at full power."""
        return magnified(field, self.bounds_um[0], self.bounds_um[1], (self.width, self.height), self.um)

    def _field(self, name: str) -> np.ndarray:
        architecture = self.painter.architecture
        return architecture.glands.depth if name == "glands" else getattr(architecture, name)

    def texture(self) -> np.ndarray:
        """The four repeating pictures, warped: (4, height, width) float32 in 0..1."""
        warp = self.painter.architecture.warp
        right, down = (np.rint(self.magnified(part) / self.um).astype(np.int32) for part in warp)
        columns = right + np.arange(self.x, self.x + self.width, dtype=np.int32)
        rows = down + np.arange(self.y, self.y + self.height, dtype=np.int32)[:, None]
        bytes_ = self.painter._textures.at(columns, rows)
        return np.stack([bytes_[..., n] for n in range(4)]).astype(np.float32) / 255


def _ground(view: _View) -> np.ndarray:
    """Everything but nuclei."""
    fibres, bundles, fat_wall, grain = view.texture()
    rough = (grain - 0.5) * 6
    tissue = view.map("tissue", always=True) + rough
    # Bundles of collagen with clefts between them.
    eosin = 0.09 + 0.2 * fibres + 0.1 * bundles + 0.07 * grain
    cleft = _step(0.2 - bundles + 0.5 * (0.36 - fibres), 0.1)
    eosin *= 1 - 0.8 * cleft
    haematoxylin = 0.015 + 0.03 * grain * (1 - cleft)
    for name, paint in (
        ("fat", _fat),
        ("lymphoid", _lymphoid),
        ("tumour", _desmoplasia),
        ("nests", _nests),
        ("necrosis", _necrosis),
        ("glands", _glands),
        ("vessels", _vessels),
    ):
        depth = view.map(name, above=-14)
        if depth is not None:
            paint(depth, haematoxylin, eosin, fat_wall, grain, fibres)
    cover = _step(tissue, 2.5)
    eosin *= cover
    haematoxylin *= cover
    # The cut edge takes more eosin.
    eosin *= 1 + 0.35 * np.exp(-(((tissue - 7) / 7) ** 2))
    return np.stack([haematoxylin, eosin])


def _fat(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    wall = np.exp(-((fat_wall * (255 / 8) / 1.5) ** 2))
    _mix(depth + (grain - 0.5) * 6, 3, haematoxylin, 0.006 + 0.02 * wall, eosin, 0.008 + 0.2 * wall)


def _lymphoid(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    _mix(depth, 25, haematoxylin, 0.06 + 0.04 * grain, eosin, 0.06 + 0.09 * grain)


def _desmoplasia(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    """Stroma that a tumour has called for: looser, a little blue."""
    _mix(depth, 30, haematoxylin, 0.03 + 0.035 * grain, eosin, 0.06 + 0.16 * fibres)


def _nests(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    ragged = depth + (grain - 0.5) * 5
    # Tissue shrinks away from nests here and there.
    shrunk = np.exp(-(((ragged + 3) / 2.2) ** 2)) * _step(fibres - 0.45, 0.1)
    eosin *= 1 - 0.85 * shrunk
    haematoxylin *= 1 - 0.8 * shrunk
    _mix(ragged, 1.5, haematoxylin, 0.05 + 0.09 * grain, eosin, 0.1 + 0.14 * grain)


def _necrosis(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    debris = _step(grain - 0.72, 0.06)
    _mix(depth + (grain - 0.5) * 20, 8, haematoxylin, 0.03 + 0.3 * debris, eosin, 0.2 + 0.22 * grain)


def _glands(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    _mix(depth + (grain - 0.5) * 2, 1.2, haematoxylin, 0.035 + 0.05 * grain, eosin, 0.12 + 0.12 * grain)
    lumen = depth - EPITHELIUM_UM + (grain - 0.5) * 3
    _mix(lumen, 1.2, haematoxylin, 0.006, eosin, 0.012 + 0.02 * grain)


def _vessels(depth, haematoxylin, eosin, fat_wall, grain, fibres) -> None:
    _mix(depth + 4, 1.5, haematoxylin, 0.03, eosin, 0.26 + 0.08 * fibres)
    _mix(depth, 1.0, haematoxylin, 0.006, eosin, 0.02)


def _mix(depth, width, haematoxylin, new_haematoxylin, eosin, new_eosin) -> None:
    """Replace both dyes where the depth is positive, over a border of `width` µm."""
    share = _step(depth, width)
    haematoxylin += share * (new_haematoxylin - haematoxylin)
    eosin += share * (new_eosin - eosin)


def _step(depth: np.ndarray, width: float) -> np.ndarray:
    """0 outside, 1 inside, linear over `width` around zero."""
    share = depth * np.float32(1 / width)
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)
