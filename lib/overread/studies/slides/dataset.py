"""Slides of five centres in folders: some to learn from, some to serve, the truth about all, patches for training."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from overread.imaging.slides.annotations import to_asap, to_geojson
from overread.imaging.slides.outlines import Outline
from overread.studies.slides.centres import CENTRES
from overread.studies.slides.patches import cut_patches
from overread.studies.slides.writer import SlideTruth, make_slide

# QuPath has a class of this name from the start.
TUMOUR = "Tumor"
# Every so many slides that are served hold no tumour.
WITHOUT_TUMOUR_EVERY = 5


def make_slides(
    folder: Path,
    *,
    central: int = 4,
    served: int = 4,
    size_px: int = 8000,
    um_per_px: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, SlideTruth]:
    """Write slides and return those of the first centre with their truth, to learn from.

    Args:
        folder: gets `central/` (slides of the first centre) and `studies/` (slides of the others in turn, to serve),
            each with its `patients.csv`, and `truth/` (the tumour of each as GeoJSON for QuPath and as ASAP XML).
        central, served: how many slides.
        size_px: width and height of each.
        seed: another seed gives other patients.
        progress: called with (slides written, slides).
    """
    folder = Path(folder)
    first, *others = CENTRES
    wanted = [("central", first, number) for number in range(central)]
    wanted += [("studies", others[number % len(others)], number) for number in range(served)]
    known: dict[Path, SlideTruth] = {}
    patients: dict[str, list[tuple[str, str, str]]] = {}
    for done, (place, centre, number) in enumerate(wanted):
        case = f"{'central' if place == 'central' else 'local'}_{centre}_{number + 1:02d}"
        has_tumour = place == "central" or (number + 1) % WITHOUT_TUMOUR_EVERY != 0
        # No two slides share a patient, whatever the numbers of slides are.
        of_slide = int(np.random.SeedSequence([seed, place == "studies", number]).generate_state(1)[0])
        path = folder / place / f"{case}.tif"
        truth = make_slide(
            path,
            centre=centre,
            size_px=(size_px, size_px),
            seed=of_slide,
            um_per_px=um_per_px,
            tumour=has_tumour,
        )
        write_truth(folder / "truth", case, truth)
        patient = case if place == "central" else f"patient_{number + 1:02d}"
        patients.setdefault(place, []).append((case, patient, centre))
        if place == "central":
            known[path] = truth
        if progress is not None:
            progress(done + 1, len(wanted))
    for place, rows in patients.items():
        with (folder / place / "patients.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("case", "patient", "centre"), *rows])
    return known


def write_truth(folder: Path, case: str, truth: SlideTruth) -> None:
    """The tumour's outlines as `CASE.geojson`, to drag onto QuPath, and as ASAP's `CASE.xml`."""
    folder.mkdir(parents=True, exist_ok=True)
    outlines = [Outline(TUMOUR, polygon) for polygon in truth.outlines]
    (folder / f"{case}.geojson").write_text(json.dumps(to_geojson(outlines)) + "\n")
    (folder / f"{case}.xml").write_bytes(to_asap(outlines))


def make_demo(
    folder: Path,
    *,
    um_per_px: float,
    patch_px: int,
    per_slide: int,
    seed: int = 0,
    size_px: int = 8000,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """What `make demo APP=pathology` starts from: slides, and in `patches/` a data set cut from the central ones.

    Args:
        um_per_px, patch_px, per_slide: of the patches.
    """
    known = make_slides(folder, size_px=size_px, seed=seed, progress=progress)
    cut_patches(
        list(known.items()),
        Path(folder) / "patches",
        um_per_px=um_per_px,
        patch_px=patch_px,
        per_slide=per_slide,
        rng=np.random.default_rng([seed, 1]),
    )
