"""A made-up right upper abdomen in portal-venous phase, in Hounsfield units.

Positions are millimetres in RAS+ around the centre of the field of view: +x is the patient's right flank, the
spine stands at x = -56, y = -34. The patient is small, so that the crop shows flank, spine, liver and neighbours.
"""

from __future__ import annotations

import numpy as np

from overread.domain import Grid
from overread.studies.phantom_shapes import ct_noise, ellipsoid, melt, share_inside, smooth_field, tube

BACKGROUND, LIVER, LESION = 0, 1, 2

# Hounsfield units in portal-venous phase, as textbooks give them.
AIR, LUNG, FAT, FLUID, MUSCLE, BLOOD = -1000.0, -840.0, -102.0, 8.0, 58.0, 158.0
NOISE_HU = 11.0


def scan(grid: Grid, lesions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patient and scan it.

    Places where honest readers differ are built in: the stomach touches the left lobe at nearly the liver's
    density, some lesions fade into the liver on one side, small ones have little contrast, and gall bladder and
    vessels look like lesions to whoever sees one slice only.

    Args:
        grid: where the voxels lie.
        lesions: how many lesions to put into the liver.

    Returns:
        Hounsfield units `(*space)` int16, and labels `(*space)` uint8.
    """
    spacing = grid.spacing_mm
    indices = np.indices(grid.shape, dtype=np.float32).reshape(3, -1)
    points = (grid.affine[:3, :3] @ indices + grid.affine[:3, 3:]).astype(np.float32).reshape(3, *grid.shape)

    def field(wavelength_mm: float) -> np.ndarray:
        return smooth_field(grid.shape, spacing, wavelength_mm, rng)

    def jitter(size: float) -> float:
        return float(rng.uniform(-size, size))

    # Nobody is made of ellipsoids: the whole space is bent a little, each patient in another way.
    skin = ellipsoid(points[:2], (-58, 0), (122 + jitter(3), 67 + jitter(2))) + 0.8 * field(60)
    points = points + np.stack([2.5 * field(70) for _ in range(3)])
    hu = np.full(grid.shape, AIR, dtype=np.float32)

    def paint(value: float | np.ndarray, distance: np.ndarray) -> None:
        hu[...] += (value - hu) * share_inside(distance)

    fat_mm = 8 + jitter(2.5)
    paint(FLUID + 20, skin)
    paint(FAT + 5 * field(14), skin + 2.0)
    wall = skin + fat_mm
    wall_mm = 9.0 + 1.2 * field(30)
    paint(MUSCLE + 5 * field(9), wall)
    cavity = wall + wall_mm
    paint(FAT + 7 * field(10), cavity)
    _paint_ribs(paint, points, wall, rng)
    _paint_spine(paint, points, rng, field)

    dome = ellipsoid(points, (16, 2, -14), (58 + jitter(2), 62, 60 + jitter(4))) + 1.0 * field(35)
    thorax = np.maximum(np.maximum(cavity, -dome - 1.5), -points[2] + 6)
    thorax = np.maximum(thorax, -ellipsoid(points[:2], (-56, -28), (30, 40)))
    lung_vessels = np.clip(field(9) - 1.4, 0, 1) * 420
    paint(LUNG + 35 * field(12) + lung_vessels, thorax)

    liver = _liver(points, dome, cavity, jitter, field)
    gallbladder = tube(
        points, np.array([-4, 24, -36.0]), np.array([2 + jitter(3), 14, -20.0]), 9 + jitter(1.5), 4.5
    )
    kidney = ellipsoid(points, (13 + jitter(3), -36, -36 + jitter(4)), (17, 14, 32)) + 0.6 * field(16)
    cava = ellipsoid(points[:2], (-30 + jitter(2), -13 + jitter(2)), (9.5, 7))
    stomach = ellipsoid(
        points, (-52 + jitter(4), 20 + jitter(3), -4 + jitter(4)), (24 + jitter(3), 24, 38)
    ) + 1.2 * field(25)
    colon = ellipsoid(points, (24 + jitter(6), 34, -46 + jitter(4)), (19, 14, 18)) + 1.0 * field(18)
    for neighbour in (gallbladder - 0.6, kidney - 1.0, cava - 0.3, stomach + 0.2, colon - 0.8):
        liver = np.maximum(liver, -neighbour)

    density = 108 + jitter(7)
    mesentery = np.abs(field(16)) * 9 - 0.7
    paint(BLOOD - 20, np.maximum(mesentery, np.abs(field(16)) * 9 - 1.2) + np.maximum(0, cavity + 3))
    _paint_stomach(paint, points, stomach, density + jitter(7), field)
    _paint_colon(paint, points, colon, field)
    paint(178 + 6 * field(7), kidney)
    paint(132, kidney + 6.0 + 1.2 * field(9))
    paint(FAT + 25, ellipsoid(points, (10, -34, -36), (7, 4.5, 13)))
    paint(BLOOD - 6, cava)
    paint(BLOOD + 6, ellipsoid(points[:2], (-57 + jitter(2), -9), (7.5, 7.5)))

    parenchyma = density + 4 * field(12) + 3 * field(5)
    paint(parenchyma, liver)
    vessels = np.minimum.reduce(list(_vessels(points, rng)))
    paint(BLOOD + 8, np.maximum(vessels, liver + 1))
    paint(FLUID, gallbladder)
    paint(MUSCLE + 15, np.maximum(gallbladder, -gallbladder - 1.2))

    lesion_share = np.zeros_like(hu)
    for distance, contrast in _lesions(points, liver, lesions, rng, field):
        share = share_inside(distance)
        hu += (parenchyma - contrast - hu) * share
        lesion_share = np.maximum(lesion_share, share)

    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[share_inside(liver) > 0.5] = LIVER
    labels[(lesion_share > 0.5) & (labels == LIVER)] = LESION
    hu += NOISE_HU * (1 + 0.15 * jitter(1)) * ct_noise(grid.shape, rng)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16), labels


def _liver(points, dome, cavity, jitter, field):
    right = ellipsoid(points, (19 + jitter(2), 2, 2 + jitter(3)), (38 + jitter(3), 50, 46 + jitter(4)))
    left = ellipsoid(points, (-28 + jitter(4), 27, 10 + jitter(4)), (36 + jitter(4), 18, 22 + jitter(3)))
    body = melt(right, left, 5.0) + 1.6 * field(30) + 0.6 * field(14)
    return np.maximum(body, np.maximum(dome + 2.0, cavity + 1.5))


def _vessels(points, rng):
    """Portal and hepatic veins: three trunks from the hilum and the cava, each with two generations of branches."""
    trunks = [
        (np.array([-20, 0, -6.0]), np.array([8, 4, -2.0]), 5.0),
        (np.array([-26, -8, 22.0]), np.array([14, 10, 14.0]), 3.6),
        (np.array([-26, -8, 22.0]), np.array([-8, 24, 12.0]), 3.2),
    ]
    while trunks:
        start, end, radius = trunks.pop()
        end = end + rng.uniform(-3, 3, 3)
        yield tube(points, start, end, radius, radius * 0.72)
        if radius < 1.6:
            continue
        along = end - start
        for _ in range(2):
            turn = rng.normal(size=3)
            turn -= along * (turn @ along) / (along @ along)
            turn *= 0.62 * np.linalg.norm(along) / np.linalg.norm(turn)
            trunks.append((end, end + 0.62 * along + turn, radius * 0.66))


def _lesions(points, liver, count, rng, field):
    """Yield the distance to each lesion and how much darker than the liver it is, voxel by voxel."""
    taken = np.full(liver.shape, 1e3, dtype=np.float32)
    for number in range(count):
        radius = float(rng.uniform(6, 13)) if number == 0 else float(rng.uniform(4.5, 9))
        possible = np.argwhere((liver < -(0.9 * radius + 2)) & (taken > radius + 6))
        if len(possible) == 0:
            return
        centre = points[(slice(None), *possible[rng.integers(len(possible))])]
        semi = radius * rng.uniform(0.8, 1.2, 3)
        ragged = ellipsoid(points, centre, semi) + 0.9 * field(9)
        distance = np.maximum(ragged, liver + 3.5)
        contrast = np.full_like(liver, rng.uniform(26, 52))
        if rng.random() < 0.45:
            # One side is isodense: where the lesion ends there can only be guessed.
            side = rng.normal(size=3)
            side /= np.linalg.norm(side)
            depth = np.tensordot(side, points - centre[:, None, None, None], axes=1) / radius
            contrast *= np.clip(0.75 + 0.75 * depth, 0.12, 1)
        elif rng.random() < 0.5:
            # A necrotic centre.
            contrast += 22 * share_inside(distance + 0.5 * radius, 4.0)
        taken = np.minimum(taken, ragged)
        yield distance, contrast


def _paint_ribs(paint, points, wall, rng):
    """Ribs run down and forward in the wall, so that a slice cuts each of them as a long oval."""
    pitch_mm = 25.0
    phase = rng.uniform(0, pitch_mm)
    around = np.arctan2(points[1], points[0] + 58) * 75
    height = (points[2] + 0.55 * around + phase) % pitch_mm - pitch_mm / 2
    rib = np.hypot(0.72 * height, 1.25 * (wall + 4.6)) - 4.2
    rib = np.maximum(rib, points[1] - 42)
    paint(480, rib)
    paint(230, rib + 1.9)


def _paint_spine(paint, points, rng, field):
    vertebra = ellipsoid(points[:2], (-56, -34), (19, 14))
    for x in (-36, -76):
        paint(MUSCLE + 4, ellipsoid(points[:2], (x + 2, -38), (11, 9)))
    for x in (-41, -73):
        paint(MUSCLE + 6 * field(8), ellipsoid(points[:2], (x, -55), (15, 7.5)))
    arch = np.abs(ellipsoid(points[:2], (-56, -52.5), (10, 8.5))) - 1.8
    spinous = ellipsoid(points[:2], (-56, -62), (2.4, 7))
    transverse = ellipsoid(points, (-40, -49, 4), (10, 3, 6))
    for bone in (arch, spinous, transverse):
        paint(430, bone)
    paint(28, ellipsoid(points[:2], (-56, -52.5), (8.4, 7)))
    pitch_mm = 27.0
    height = np.abs((points[2] + rng.uniform(0, pitch_mm)) % pitch_mm - pitch_mm / 2)
    paint(420, vertebra)
    paint(185 + 28 * field(5), vertebra + 1.8)
    disc = np.maximum(vertebra, 3.0 - height)
    paint(82, np.maximum(vertebra, height - 3.0))
    paint(330, np.maximum(disc, height - 4.4))


def _paint_stomach(paint, points, stomach, content, field):
    paint(content + 12, stomach)
    paint(content + 5 * field(8), stomach + 3.0)
    # The patient lies on the back: gas rises to the front with a level surface.
    level = 31 + 2 * field(40)
    paint(AIR + 60, np.maximum(stomach + 3.5, level - points[1]))


def _paint_colon(paint, points, colon, field):
    paint(MUSCLE + 20, colon)
    paint(-90 + 190 * field(7), colon + 2.4)
    paint(AIR + 90, np.maximum(colon + 3.0, 38 - points[1]))
