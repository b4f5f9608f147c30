"""Patches of slides whose tumour is known, as a data set to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from overread.domain.slides import PatchLocation, PixelSize, Region
from overread.imaging.slides.outlines import rasterise
from overread.imaging.slides.slide import Slide, open_slide
from overread.imaging.slides.tissue import TissueMask, find_tissue
from overread.studies.slides.writer import SlideTruth

# Cells of the map that places are drawn from.
CELL = PixelSize(16.0)
# Half of the tumour's patches have the border near their middle: within this.
BORDER_UM = 60.0
# This share of the patches elsewhere lies on the darkest tenth, where benign look-alikes are.
DARK_SHARE, DARKEST = 0.5, 0.1


def cut_patches(
    slides: Sequence[tuple[Path, SlideTruth]],
    folder: Path,
    *,
    um_per_px: float,
    patch_px: int,
    per_slide: int,
    rng: np.random.Generator,
) -> None:
    """Write an nnU-Net raw data set of colour patches, square, `labelsTr` being 1 in the tumour.

    Half of each slide's patches have their middle in the tumour or at its border, the others elsewhere in the
    tissue, half of these where it is dark. Patches without tumour have a label of zeros. `dataset.json` says which
    slide each comes from (`patients`), so that no slide is split between learning and judging, where that slide lies
    (`slides`), and the µm per pixel.
    """
    folder = Path(folder)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    patients: dict[str, str] = {}
    files: dict[str, str] = {}
    for path, truth in slides:
        with open_slide(path) as slide:
            outlines = [(polygon, 1) for polygon in truth.outlines]
            for region in _places(slide, truth, um_per_px * patch_px, per_slide, rng):
                name = PatchLocation(slide.id, region).name
                picture = slide.read_into(region, (patch_px, patch_px))
                Image.fromarray(picture).save(folder / "imagesTr" / f"{name}_0000.png")
                label = rasterise(outlines, region, (patch_px, patch_px))
                Image.fromarray(label).save(folder / "labelsTr" / f"{name}.png")
                patients[name] = slide.id
                files[name] = Path(os.path.relpath(path, folder)).as_posix()
    description = {
        "name": "Overread sample slides",
        "description": "Patches of computed H&E slides; no patient stands behind them",
        "licence": "Apache-2.0",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "Tumor": 1},
        "numTraining": len(patients),
        "file_ending": ".png",
        "um_per_px": um_per_px,
        "patients": patients,
        "slides": files,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def _places(
    slide: Slide, truth: SlideTruth, edge_um: float, count: int, rng: np.random.Generator
) -> list[Region]:
    """Where patches are cut: all different."""
    tissue = find_tissue(slide, CELL)
    rows, columns = tissue.mask.shape
    cell_px = tissue.cell / slide.pixel_size
    covered = Region(0, 0, round(columns * cell_px), round(rows * cell_px))
    tumour = rasterise([(polygon, 1) for polygon in truth.outlines], covered, (columns, rows)) > 0
    reach = round(BORDER_UM / CELL.um)
    near = np.asarray(ndimage.binary_dilation(tumour, iterations=reach), dtype=bool)
    within = np.asarray(ndimage.binary_erosion(tumour, iterations=reach), dtype=bool)
    border, elsewhere = near & ~within, tissue.mask & ~near
    shares = ((border, 0.25), (tumour, 0.25), (_dark(slide, tissue, elsewhere), 0.5 * DARK_SHARE))
    numbers = [round(share * count) if where.any() else 0 for where, share in shares]
    wanted = [
        *((where, n) for (where, _), n in zip(shares, numbers, strict=True)),
        (elsewhere, count - sum(numbers)),
    ]
    edge_px = round(edge_um / slide.pixel_size.um)
    found: dict[tuple[int, int], Region] = {}
    for where, number in wanted:
        cells = np.argwhere(where)
        for row, column in cells[rng.permutation(len(cells))[:number]]:
            # Anywhere in the cell, not always its middle.
            y, x = ((np.array([row, column]) + rng.random(2)) * cell_px - edge_px / 2).astype(int)
            x, y = (
                int(np.clip(place, 0, max(0, size - edge_px)))
                for place, size in zip((x, y), slide.size_px, strict=True)
            )
            found[x, y] = Region(x, y, edge_px, edge_px)
    return list(found.values())


def _dark(slide: Slide, tissue: TissueMask, where: np.ndarray) -> np.ndarray:
    """The darkest tenth of these cells in red light, in which haematoxylin is dark and eosin is not."""
    if not where.any():
        return where
    rows, columns = tissue.mask.shape
    cell_px = tissue.cell / slide.pixel_size
    red = slide.read_box((0, 0, columns * cell_px, rows * cell_px), (columns, rows))[..., 0]
    red = ndimage.uniform_filter(red.astype(np.float32), 5)
    return where & (red <= np.quantile(red[where], DARKEST))
