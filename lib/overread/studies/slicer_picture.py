"""The picture in the README: a sample study, what the ensemble says and where to doubt it, drawn by 3D Slicer's core.

    python -m overread.studies.slicer_picture --model FOLDER --image case_0000.nii.gz --out docs/pictures/slicer.png

`FOLDER` is a trained ensemble: `model/<recipe>/<hash>` of the app, or what `overread train` wrote. What Slicer's
core needs, `slicer_scene.NEEDS` says.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from overread.domain import BadInputError
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_volume, write_nrrd
from overread.studies.slicer_scene import SlicerScene, in_own_process
from overread.uncertainty.calibration import DOUBT_HIGH, DOUBT_MODERATE, band_map

# The usual soft-tissue window: level 40, width 400.
WINDOW_HU = (-160.0, 240.0)
PANEL_PX = (600, 600)
GAP_PX, STRIP_PX = 6, 44
# Colours that stay apart for readers who cannot tell red from green, and fills through which the image shows.
CLASS_COLOURS = ((0.35, 0.70, 0.90), (0.80, 0.47, 0.95), (0.45, 0.85, 0.60), (0.95, 0.75, 0.85))
DOUBT_COLOURS = {DOUBT_HIGH: (1.0, 0.30, 0.05), DOUBT_MODERATE: (1.0, 0.85, 0.10)}
CLASS_FILL = 0.16
DOUBT_FILL = {DOUBT_HIGH: 0.62, DOUBT_MODERATE: 0.38}


def draw_in_slicer(
    image: Path, labels: np.ndarray, doubt: np.ndarray, classes: Sequence[str], picture: Path
) -> None:
    """Draw two panels of the slice with most doubt: the image alone, and with classes and bands.

    Args:
        labels: class indices `(*space)` on the image's grid.
        doubt: 0 none, 1 moderate, 2 high.
        classes: names, the background first.
        picture: PNG to write.
    """
    names = [*classes[1:], DOUBT_MODERATE, DOUBT_HIGH]
    values = labels.astype(np.uint8)
    values[doubt == 1] = len(classes)
    values[doubt == 2] = len(classes) + 1
    colours = {
        name: CLASS_COLOURS[index % len(CLASS_COLOURS)] for index, name in enumerate(classes[1:])
    } | DOUBT_COLOURS
    fills = dict.fromkeys(classes[1:], CLASS_FILL) | DOUBT_FILL
    with tempfile.TemporaryDirectory() as folder, in_own_process() as slicer:
        answer = Path(folder) / "answer.nrrd"
        write_nrrd(answer, values, read_volume([image]).grid)
        panels = [Path(folder) / "plain.png", Path(folder) / "segments.png"]
        slicer.submit(_draw_panels, image, answer, names, panels, colours, fills).result()
        beside_each_other([Image.open(panel).convert("RGB") for panel in panels], colours, picture)


def _draw_panels(
    image: Path,
    answer: Path,
    names: Sequence[str],
    panels: Sequence[Path],
    colours: dict[str, tuple[float, float, float]],
    fills: dict[str, float],
) -> None:
    """In Slicer's process: the volume without and with the segments."""
    scene = SlicerScene(image, drawn=True)
    scene.import_result(answer, names)
    segments = scene.segment_voxels()
    # The slice with most doubt in which the last class (of the phantoms: lesions) is seen as well.
    doubt = (segments[DOUBT_HIGH] | segments[DOUBT_MODERATE]).sum(axis=(0, 1))
    last = segments[names[-3]].sum(axis=(0, 1))
    slice_k = int((doubt * (last >= last.max() / 2)).argmax())
    scene.show_segments(False)
    scene.render(panels[0], slice_k, WINDOW_HU, colours, fills, PANEL_PX)
    scene.show_segments(True)
    scene.render(panels[1], slice_k, WINDOW_HU, colours, fills, PANEL_PX)


def beside_each_other(
    panels: Sequence[Image.Image],
    colours: Mapping[str, tuple[float, float, float]],
    picture: Path,
    captions: Sequence[str] = (),
) -> None:
    """Panels from left to right, over strips that name the colours of all but the first panel.

    Args:
        captions: one a panel, written below it.
    """
    step_px = panels[0].width + GAP_PX
    font = ImageFont.load_default(size=19)
    left, right = step_px, step_px * len(panels) - GAP_PX
    x, row, entries = left, 0, []
    for name, colour in colours.items():
        length = 24 + round(font.getlength(name))
        if x > left and x + length > right:
            x, row = left, row + 1
        entries.append((x, row, name, colour))
        x += length + 26
    top = panels[0].height + (STRIP_PX if captions else 0)
    sheet = Image.new("RGB", (right, top + STRIP_PX * (row + 1)), "black")
    pen = ImageDraw.Draw(sheet)
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index * step_px, 0))
    for index, caption in enumerate(captions):
        pen.text(
            (index * step_px + GAP_PX, panels[0].height + STRIP_PX // 2),
            caption,
            fill="white",
            font=font,
            anchor="lm",
        )
    for x, row, name, colour in entries:
        y = top + STRIP_PX * row + STRIP_PX // 2
        pen.rectangle((x, y - 8, x + 16, y + 8), fill=tuple(round(255 * part) for part in colour))
        pen.text((x + 24, y), name, fill="white", font=font, anchor="lm")
    picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(picture, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict and draw.

    Raises:
        BadInputError: the ensemble has no calibrated bands for the measure.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained ensemble")
    parser.add_argument("--image", type=Path, required=True, help="CT volume with one channel")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--measure", default="predictive_entropy", help="uncertainty map to band")
    wanted = parser.parse_args(arguments)
    ensemble = load_ensemble(wanted.model)
    bands = ensemble.calibration.bands.get(wanted.measure)
    if bands is None:
        raise BadInputError(f"{wanted.model} has no calibrated bands for {wanted.measure}")
    said = predict(ensemble, read_volume([wanted.image]), measures=[wanted.measure])
    doubt = band_map(said.maps[wanted.measure].values, bands)
    draw_in_slicer(wanted.image, said.labels, doubt, ensemble.classes, wanted.out)


if __name__ == "__main__":
    main()
