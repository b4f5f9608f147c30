"""What lies in tissue as single objects: glands in lobules, aggregates of lymphocytes, vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.studies.slides.fields import CELL_UM, FAR_UM, PAD
from overread.studies.slides.noise import smooth_noise

# How thick the epithelium of a gland is.
EPITHELIUM_UM = 13.0


@dataclass(frozen=True, eq=False)
class Glands:
    """Benign glands of a slide.

    Attributes:
        depth: (rows, columns) µm below the outer border of a gland; deeper than `EPITHELIUM_UM` is its lumen.
        x_um, y_um, angle: places and directions of nuclei: those of the epithelium stand on the border, those of
            the layer around lie along it.
        is_outer: which of them belong to the layer around.
    """

    depth: np.ndarray
    x_um: np.ndarray
    y_um: np.ndarray
    angle: np.ndarray
    is_outer: np.ndarray


def grow_foci(
    room: np.ndarray, tumour: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Aggregates of lymphocytes, benign look-alikes of tumour at low power: µm to their border, positive inside.

    One in three lies where the tumour is near, the others anywhere.
    """
    field = np.full(room.shape, -FAR_UM, np.float32)
    free = np.minimum(room, -tumour - 25)
    count = max(3, round(0.3 * _tissue_mm2(room)))
    for number in range(count):
        near = (free > 0) & (tumour > -80) if number % 3 == 0 else free > 0
        place = _somewhere(near if near.any() else free > 0, rng)
        if place is None:
            continue
        _stamp_blob(field, place, rng.uniform(60, max(60.0, min(230, 0.07 * min(size_um) + 40))), rng)
    ragged = field + 14 * smooth_noise(room.shape, 60 / CELL_UM, rng)
    return np.minimum(ragged, free)


def grow_glands(room: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator) -> Glands:
    """Lobules of benign glands, each with its lumen, two layers of nuclei and a smooth border."""
    depth = np.full(room.shape, -FAR_UM, np.float32)
    nuclei: list[np.ndarray] = []
    for _ in range(max(2, round(0.34 * _tissue_mm2(room)))):
        place = _somewhere(room > 15, rng)
        if place is None:
            break
        reach = rng.uniform(130, max(130.0, min(420, 0.1 * min(size_um) + 60)))
        pitch = rng.uniform(80, 105)
        for row in np.arange(-reach, reach, pitch * 0.87):
            shift = rng.uniform(0, pitch)
            for column in np.arange(-reach, reach, pitch):
                if np.hypot(row, column + shift) > reach * rng.uniform(0.75, 1.05):
                    continue
                y = place[0] + row + rng.uniform(-12, 12)
                x = place[1] + column + shift + rng.uniform(-12, 12)
                cell = int(y / CELL_UM) + PAD, int(x / CELL_UM) + PAD
                inside = all(0 <= index < edge for index, edge in zip(cell, room.shape, strict=True))
                if inside and room[cell] > 5:
                    _grow_gland(depth, nuclei, (y, x), rng.uniform(0.22, 0.5) * pitch, rng)
    placed = np.concatenate(nuclei, axis=1) if nuclei else np.zeros((4, 0))
    return Glands(depth.astype(np.float16), placed[0], placed[1], placed[2], placed[3] > 0)


def grow_vessels(room: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Small vessels: µm to the inner border of their walls, positive in the lumen."""
    field = np.full(room.shape, -FAR_UM, np.float32)
    for _ in range(max(3, round(2.2 * _tissue_mm2(room)))):
        place = _somewhere(room > 20, rng)
        if place is None:
            break
        radius = 9 + rng.exponential(9) if rng.random() < 0.85 else rng.uniform(30, 55)
        _stamp_blob(field, place, float(min(radius, 55)), rng)
    return field


def _grow_gland(
    depth: np.ndarray,
    nuclei: list[np.ndarray],
    place: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
) -> None:
    edge = _Border(radius, rng)
    _stamp(depth, place, edge)
    around = 2 * np.pi * radius
    for below, spacing, is_outer in ((5.0, 6.6, 0.0), (-1.5, 17.0, 1.0)):
        count = max(5, int(around / spacing))
        turn = (np.arange(count) + rng.uniform(-0.18, 0.18, count)) * 2 * np.pi / count + rng.uniform(0, 6)
        far = edge.radius(turn) - below + rng.normal(0, 0.8, count)
        x, y = place[1] + far * np.cos(turn), place[0] + far * np.sin(turn)
        direction = turn + is_outer * np.pi / 2 + rng.normal(0, 0.16, count)
        nuclei.append(np.stack([x, y, direction, np.full(count, is_outer)]))


class _Border:
    """A closed line around a place, given as radius by direction."""

    def __init__(self, radius: float, rng: np.random.Generator) -> None:
        self.mean = radius
        self.waves = [(k, rng.normal(0, 0.1 / k**0.5), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]

    def radius(self, turn: np.ndarray) -> np.ndarray:
        """µm from the middle to the line."""
        waves = [height * np.cos(k * turn + phase) for k, height, phase in self.waves]
        return self.mean * np.sum([np.ones_like(turn), *waves], axis=0)


def _stamp_blob(
    field: np.ndarray, place: tuple[float, float], radius: float, rng: np.random.Generator
) -> None:
    _stamp(field, place, _Border(radius, rng))


def _stamp(field: np.ndarray, place: tuple[float, float], border: _Border) -> None:
    """Raise the field to the depth below a border, where that is higher."""
    reach = int((border.mean * 1.6 + FAR_UM) / CELL_UM)
    row, column = int(place[0] / CELL_UM) + PAD, int(place[1] / CELL_UM) + PAD
    rows = slice(max(0, row - reach), min(field.shape[0], row + reach))
    columns = slice(max(0, column - reach), min(field.shape[1], column + reach))
    down = (np.arange(rows.start, rows.stop)[:, None] - PAD + 0.5) * CELL_UM - place[0]
    right = (np.arange(columns.start, columns.stop)[None] - PAD + 0.5) * CELL_UM - place[1]
    depth = border.radius(np.arctan2(down, right)) - np.hypot(down, right)
    np.maximum(field[rows, columns], depth, out=field[rows, columns])


def _tissue_mm2(room: np.ndarray) -> float:
    return float((room > 0).sum()) * CELL_UM**2 / 1e6


def _somewhere(allowed: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    """Row and column in µm of one of the allowed cells; None where none is."""
    cells = np.flatnonzero(allowed)
    if not len(cells):
        return None
    row, column = np.unravel_index(cells[rng.integers(len(cells))], allowed.shape)
    return (float(row) - PAD + 0.5) * CELL_UM, (float(column) - PAD + 0.5) * CELL_UM
