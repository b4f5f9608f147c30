"""A slide as the pathology app sees it: outlines, doubt, and the first patches that the queue would ask about.

python -m overread.studies.slide_picture --slide FILE --model FOLDER --out FILE.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from overread.ensemble.compute import leave_a_core
from overread.ensemble.slides.prediction import SlidePrediction, predict_slide
from overread.ensemble.storage import load_ensemble
from overread.imaging.slides.annotations import colour_of
from overread.imaging.slides.outlines import Outline, outlines_of
from overread.imaging.slides.slide import Slide, open_slide
from overread.queue.patches.serving import PatchQueue, ServedPatch
from overread.queue.patches.tables import SlideEntry
from overread.queue.settings import QueueSettings
from overread.state.database import Database

PATCHES = 5
LONGEST_PX = 1400
MEASURE = "predictive_entropy"


def draw_slide(slide: Slide, model: Path, out: Path, patch_px: int) -> None:
    """Write the picture: left the slide with outlines and patches, right the doubt with the same patches."""
    ensemble = load_ensemble(model)
    prediction = predict_slide(ensemble, slide, measure=MEASURE)
    scale = prediction.pixel_size / slide.pixel_size
    names = dict(enumerate(ensemble.classes[1:], start=1))
    found = outlines_of(prediction.labels, names, scale=scale, simplify_px=2 * scale, min_area_px=3000)
    served = first_patches(slide, prediction, ensemble.name, patch_px)
    width, height = slide.size_px
    figure = Figure(figsize=(14, 7 * height / width + 0.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(slide.thumbnail(LONGEST_PX), extent=(0, width, height, 0))
    _draw_outlines(left, found)
    doubt = np.ma.masked_invalid(np.where(prediction.maps.known, prediction.maps.maps[MEASURE], np.nan))
    cell = prediction.maps.cell / slide.pixel_size
    rows, columns = doubt.shape
    shown = right.imshow(doubt, extent=(0, columns * cell, rows * cell, 0), cmap="magma")
    right.set(xlim=(0, width), ylim=(height, 0))
    figure.colorbar(shown, ax=right, label="predictive entropy, nat", shrink=0.8)
    for axes, title in (
        (left, f"{', '.join(names.values())} as outlined"),
        (right, f"Where the members doubt, and the first {len(served)} patches asked"),
    ):
        axes.set_title(title)
        axes.set_axis_off()
        for number, one in enumerate(served, start=1):
            x, y, w, h = one.location.region.bbox
            axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="#00c853", linewidth=2))
            axes.annotate(str(number), (x, y), color="#00c853", weight="bold", va="bottom")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


def first_patches(slide: Slide, prediction: SlidePrediction, recipe: str, patch_px: int) -> list[ServedPatch]:
    """What the queue hands out first, by the default strategy and without a control arm."""
    entry = SlideEntry(
        maps=lambda: prediction.maps,
        patient=slide.id,
        centre="",
        size_px=slide.size_px,
        pixel_size=slide.pixel_size,
        version=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(Path(folder) / "queue.db")
        try:
            queue = PatchQueue(database, recipe, "picture", QueueSettings(control_share=0))
            rng = np.random.default_rng(0)
            answers = [
                queue.ask(None, "", {slide.id: entry}, slide.id, (patch_px, patch_px), float(number), rng)
                for number in range(PATCHES)
            ]
        finally:
            database.close()
    return [answer for answer in answers if isinstance(answer, ServedPatch)]


def _draw_outlines(axes: object, found: Sequence[Outline]) -> None:
    for outline in found:
        for ring in (outline.polygon.exterior, *outline.polygon.interiors):
            axes.plot(*ring.xy, color=colour_of(outline.name), linewidth=1.5)  # type: ignore[attr-defined]


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and draw. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path, help="an ensemble's folder")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    parser.add_argument("--patch", type=int, default=768, help="edge of a patch in level-0 pixels")
    chosen = parser.parse_args(arguments)
    leave_a_core()
    with open_slide(chosen.slide) as slide:
        draw_slide(slide, chosen.model, chosen.out, chosen.patch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
