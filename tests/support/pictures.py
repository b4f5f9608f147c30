"""Pictures of a small world of tissue: dark blue blobs on pink, wider than high, so that exchanged axes are seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain.labels import IGNORE
from overread.ensemble.training import TrainingOptions
from support.datasets import ball, write_description

WIDTH, HEIGHT = 40, 24
PINK, BLUE = (230, 170, 200), (110, 70, 150)
CLASSES = ("background", "Tumor")
TINY = {"features": (4, 8, 16), "patch": (16, 16), "batch": 4}
# float32 on one core: the same numbers every time.
EXACT = TrainingOptions(members=2, iterations=40, device="cpu", precision="float32", threads=1)


def tissue(
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    tint: tuple[float, float, float] = (1, 1, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (row, column, 3) with one blob, and where that is (row, column).

    Args:
        size: width and height.
        tint: what the other laboratory's stain does to red, green and blue.
    """
    _, label = ball(size[::-1], rng, radius=5)
    picture = np.where(label[..., None] > 0, BLUE, PINK) * np.array(tint) + rng.normal(
        0, 8, (*label.shape, 3)
    )
    return picture.clip(0, 255).astype(np.uint8), label


def write_tissue(
    folder: Path,
    cases: int,
    *,
    um_per_px: float | None = 1.0,
    empty: int = 0,
    ignored: int = 0,
    seed: int = 0,
) -> Path:
    """A sound data set of pictures that were cut from slides.

    Args:
        empty: how many more cases hold no blob.
        ignored: of how many cases nobody labelled the left half.
    """
    rng = np.random.default_rng(seed)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(cases + empty):
        picture, label = tissue(rng)
        if index >= cases:
            picture[label > 0], label = PINK, np.zeros_like(label)
        if index < ignored:
            label[:, : WIDTH // 2] = IGNORE
        Image.fromarray(picture).save(folder / "imagesTr" / f"tissue_{index:02d}_0000.png")
        Image.fromarray(label).save(folder / "labelsTr" / f"tissue_{index:02d}.png")
    write_description(
        folder,
        cases + empty,
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={name: value for value, name in enumerate(CLASSES)},
        file_ending=".png",
        um_per_px=um_per_px,
    )
    return folder


def without_pixel_size(folder: Path) -> Path:
    """The same data set as pictures of anything."""
    path = folder / "dataset.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in description.items() if key != "um_per_px"}))
    return folder
