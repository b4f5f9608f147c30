"""What repeats in tissue at high power: collagen fibres, fat cells, grain. Seamless, one millimetre wide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.spatial import KDTree

from overread.studies.slides.noise import periodic_noise

# Textures are made at 1 µm per pixel and repeat after this many µm.
PERIOD_UM = 1024
# Mean distance between neighbouring fat cells; adipocytes measure 50 to 100 µm.
FAT_CELL_UM = 62.0


@dataclass(frozen=True, eq=False)
class Textures:
    """Seamless pictures of one period at a slide's pixel size.

    Attributes:
        packed: (edge, edge) uint32; its four bytes are collagen fibres, fibre bundles, distance to the wall of a
            fat cell (in 1/8 µm), and grain; 0..255 each.
    """

    packed: np.ndarray

    @property
    def edge(self) -> int:
        """Pixels of one period."""
        return len(self.packed)

    def at(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The four bytes at whole pixels, which may lie any number of periods away: (*shape, 4) uint8."""
        place = (rows % self.edge) * self.edge + columns % self.edge
        return self.packed.ravel().take(place).view(np.uint8).reshape(*place.shape, 4)


@dataclass(frozen=True, eq=False)
class Fibres:
    """The textures before they are at a slide's pixel size: (`PERIOD_UM`, `PERIOD_UM`), 1 µm per pixel.

    Attributes:
        angle: direction of the collagen fibres, radians from the columns' axis towards the rows'.
        fat_wall_um: distance to the wall of the fat cell.
        layers: fibres, bundles, distance to the wall and grain as bytes will hold them.
    """

    angle: np.ndarray
    fat_wall_um: np.ndarray
    layers: tuple[np.ndarray, ...]


@lru_cache(maxsize=1)
def fibres() -> Fibres:
    """The same for all slides, which look at them through warps of their own."""
    rng = np.random.default_rng(20010801)
    angle = 0.75 * periodic_noise(PERIOD_UM, 75, rng) + 0.22 * periodic_noise(PERIOD_UM, 20, rng)
    fine = _along(angle, periodic_noise(PERIOD_UM, 0.8, rng), 26)
    bundles = _along(angle, periodic_noise(PERIOD_UM, 2.6, rng), 70)
    grain = 0.75 * periodic_noise(PERIOD_UM, 0.7, rng) + 0.65 * periodic_noise(PERIOD_UM, 2.5, rng)
    wall = _distance_to_fat_wall(rng)
    layers = (128 + 52 * fine / fine.std(), 128 + 52 * bundles / bundles.std(), 8 * wall, 128 + 45 * grain)
    return Fibres(angle, wall, layers)


@lru_cache(maxsize=2)
def textures(um_per_px: float) -> Textures:
    """The textures at this pixel size."""
    edge = round(PERIOD_UM / um_per_px)
    layers = [_resized(layer, edge) for layer in fibres().layers]
    return Textures(np.ascontiguousarray(np.stack(layers, axis=-1)).view(np.uint32)[..., 0])


def _along(angle: np.ndarray, noise: np.ndarray, steps: int) -> np.ndarray:
    """Noise averaged along streamlines: line integral convolution (Cabral & Leedom 1993)."""
    edge = len(noise)
    dx, dy = np.cos(angle).astype(np.float32).ravel(), np.sin(angle).astype(np.float32).ravel()
    flat = noise.ravel()
    mean = np.zeros(edge * edge, np.float32)
    for way in (1.0, -1.0):
        y, x = (part.ravel().astype(np.float32) for part in np.mgrid[:edge, :edge])
        for _ in range(steps // 2):
            at = (np.rint(y).astype(np.int32) % edge) * edge + np.rint(x).astype(np.int32) % edge
            mean += flat[at]
            x += way * dx[at]
            y += way * dy[at]
    return mean.reshape(edge, edge) / steps


def _distance_to_fat_wall(rng: np.random.Generator) -> np.ndarray:
    """µm from each place to the wall between the two nearest fat cells."""
    count = round(PERIOD_UM / FAT_CELL_UM)
    rows, columns = np.mgrid[:count, :count].reshape(2, -1)
    columns = columns + 0.5 * (rows % 2)
    seeds = np.stack([columns, rows], axis=-1) + rng.uniform(-0.36, 0.36, (count * count, 2))
    tree = KDTree((seeds % count) * PERIOD_UM / count, boxsize=PERIOD_UM)
    places = np.stack(list(np.mgrid[:PERIOD_UM, :PERIOD_UM][::-1]), axis=-1).reshape(-1, 2)
    near = tree.query(places, k=3)[0]
    # The third neighbour rounds the corners off, where three vacuoles meet.
    walls = -np.log(np.exp(-(near[:, 1] - near[:, 0]) / 5) + np.exp(-(near[:, 2] - near[:, 0]) / 5)) * 5
    return np.clip(walls / 2, 0, 31).reshape(PERIOD_UM, PERIOD_UM)


def _resized(layer: np.ndarray, edge: int) -> np.ndarray:
    """The layer at `edge` pixels per period, still without a seam, as bytes."""
    margin = 8
    padded = Image.fromarray(np.pad(layer.astype(np.float32), margin, mode="wrap"))
    box = (margin, margin, margin + len(layer), margin + len(layer))
    resized = padded.resize((edge, edge), Image.Resampling.BICUBIC, box=box)
    return np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
