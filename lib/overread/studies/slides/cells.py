"""Which cells lie where: by lattices with jitter, so that any tile finds the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from overread.studies.slides.architecture import Architecture
from overread.studies.slides.fields import at_points
from overread.studies.slides.noise import hashed_uniform
from overread.studies.slides.nuclei import VARIANTS
from overread.studies.slides.structures import EPITHELIUM_UM
from overread.studies.slides.textures import PERIOD_UM, fibres

# The largest nucleus reaches less far.
REACH_UM = 20.0


class Cell(NamedTuple):
    """One nucleus (or red cell): its middle in µm, what it is, which picture of that."""

    x_um: float
    y_um: float
    kind: str
    variant: int


class _Lattice(NamedTuple):
    """Candidates for cells: their middles, and three numbers of chance for each."""

    x: np.ndarray
    y: np.ndarray
    chance: np.ndarray
    variant: np.ndarray


def cells_of(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    """All cells that reach into left, top, right, bottom; those of one kind in the order of rows and columns."""
    for cells in (
        _fibroblasts(architecture, bounds_um),
        _lymphocytes(architecture, bounds_um),
        _of_glands(architecture, bounds_um),
        _of_vessels(architecture, bounds_um),
        _of_tumour(architecture, bounds_um),
    ):
        yield from cells


def _candidates(
    architecture: Architecture,
    bounds_um: tuple[float, float, float, float],
    pitch: float,
    jitter: float,
    stream: int,
) -> _Lattice:
    left, top, right, bottom = bounds_um
    columns, rows = np.meshgrid(
        np.arange(np.floor((left - REACH_UM) / pitch) - 1, np.ceil((right + REACH_UM) / pitch) + 1),
        np.arange(np.floor((top - REACH_UM) / pitch) - 1, np.ceil((bottom + REACH_UM) / pitch) + 1),
    )
    columns, rows = columns.ravel().astype(np.int64), rows.ravel().astype(np.int64)
    right_by, down_by, chance, variant = (
        hashed_uniform(columns, rows, stream * 8 + part, architecture.seed) for part in range(4)
    )
    x = (columns + 0.5 + 0.5 * (rows % 2) + (right_by - 0.5) * 2 * jitter) * pitch
    y = (rows + 0.5 + (down_by - 0.5) * 2 * jitter) * pitch
    return _Lattice(x, y, chance, (variant * (1 << 20)).astype(np.int64))


def _kept(lattice: _Lattice, kept: np.ndarray) -> _Lattice:
    return _Lattice(*(part[kept] for part in lattice))


def _cells(lattice: _Lattice, kind: str) -> Iterator[Cell]:
    for x, y, variant in zip(lattice.x.tolist(), lattice.y.tolist(), lattice.variant.tolist(), strict=True):
        yield Cell(x, y, kind, variant)


def _in_tissue(architecture: Architecture, lattice: _Lattice) -> _Lattice:
    return _kept(lattice, at_points(architecture.tissue, lattice.x, lattice.y) > 4)


def _fibroblasts(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    found = _in_tissue(architecture, _candidates(architecture, bounds_um, 15.0, 0.45, 1))
    near = {
        name: at_points(getattr(architecture, name), found.x, found.y)
        for name in ("tumour", "nests", "fat", "lymphoid", "necrosis", "vessels")
    }
    glands = at_points(architecture.glands.depth, found.x, found.y)
    share = np.where(near["tumour"] > -40, 0.62, 0.36)
    share = np.where(near["fat"] > 0, 0.5, share)
    free = (
        (near["nests"] < -2)
        & (glands < -3)
        & (near["necrosis"] < -5)
        & (near["vessels"] < -3)
        & (near["lymphoid"] < 10)
    )
    found = _kept(found, free & (found.chance < share))
    right, down = (at_points(part, found.x, found.y) for part in architecture.warp)
    place = tuple(np.rint(part).astype(int) % PERIOD_UM for part in (found.y + down, found.x + right))
    in_wall = fibres().fat_wall_um[place] < 2.2
    fat = at_points(architecture.fat, found.x, found.y) > 0
    # Within fat, only its walls have cells.
    place, found = tuple(part[in_wall | ~fat] for part in place), _kept(found, in_wall | ~fat)
    angle = fibres().angle[place] + (found.chance - 0.2) * 0.6
    return _cells(found._replace(variant=_variant(angle)), "fibroblast")


def _variant(angle: np.ndarray) -> np.ndarray:
    """Which picture of an oriented kind is turned like this."""
    return np.rint(angle / np.pi * VARIANTS).astype(np.int64) % VARIANTS


def _lymphocytes(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    dense = _in_tissue(architecture, _candidates(architecture, bounds_um, 7.4, 0.3, 2))
    depth = at_points(architecture.lymphoid, dense.x, dense.y)
    yield from _cells(_kept(dense, dense.chance < np.clip((depth + 14) / 30, 0, 0.94)), "lymphocyte")
    sparse = _in_tissue(architecture, _candidates(architecture, bounds_um, 13.0, 0.48, 3))
    tumour = at_points(architecture.tumour, sparse.x, sparse.y)
    nests = at_points(architecture.nests, sparse.x, sparse.y)
    elsewhere = np.maximum(
        at_points(architecture.fat, sparse.x, sparse.y),
        at_points(architecture.glands.depth, sparse.x, sparse.y),
    )
    share = np.where((tumour > -70) & (nests < -3), 0.16, 0.018)
    share = np.where(nests > 0, 0.03, share)
    yield from _cells(_kept(sparse, (sparse.chance < share) & (elsewhere < -2)), "lymphocyte")


def _of_glands(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    glands = architecture.glands
    left, top, right, bottom = bounds_um
    x, y = glands.x_um, glands.y_um
    near = np.flatnonzero(
        (x > left - REACH_UM) & (x < right + REACH_UM) & (y > top - REACH_UM) & (y < bottom + REACH_UM)
    )
    # Where two glands have grown into each other, the nuclei that would float in a lumen or lie inside are left out.
    depth = at_points(glands.depth, x[near], y[near])
    fits = np.where(glands.is_outer[near], depth < 3, depth < EPITHELIUM_UM - 3)
    near = near[fits & (at_points(architecture.tissue, x[near], y[near]) > 4)]
    for place, outer, variant in zip(near, glands.is_outer[near], _variant(glands.angle[near]), strict=True):
        yield Cell(float(x[place]), float(y[place]), "fibroblast" if outer else "epithelium", int(variant))


def _of_vessels(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    blood = _candidates(architecture, bounds_um, 6.4, 0.3, 4)
    depth = at_points(architecture.vessels, blood.x, blood.y)
    yield from _cells(_kept(blood, (depth > 2.5) & (blood.chance < 0.62)), "erythrocyte")


def _of_tumour(architecture: Architecture, bounds_um: tuple[float, float, float, float]) -> Iterator[Cell]:
    found = _in_tissue(architecture, _candidates(architecture, bounds_um, 10.4, 0.36, 5))
    found = _kept(found, at_points(architecture.nests, found.x, found.y) > 2.5)
    for name, low, high in (("tumour", 0.0, 0.9), ("giant", 0.9, 0.94), ("mitosis", 0.94, 0.946)):
        yield from _cells(_kept(found, (found.chance >= low) & (found.chance < high)), name)
