"""The picture of candidates in the README: what a reader is offered, and what comes of choosing, in 3D Slicer's core.

    python -m overread.studies.candidates_picture apps/radiology --model FOLDER --image case_0000.nii.gz \\
        --label liver --choose B --out docs/pictures/slicer-candidates.png

`FOLDER` is a MedUHIP model: `model/<recipe>/<hash>` of the app. The real server is asked, as 3D Slicer asks it. The
README's own picture is of a model whose styles were set by hand: `PYTHONPATH=tests python -m support.styles_picture`.
What Slicer's core needs, `slicer_scene.NEEDS` says.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from overread.domain import BadInputError
from overread.ensemble.storage import read_description
from overread.learning.champions import ChampionStore
from overread.studies.asking import ask
from overread.studies.local_server import app_with_champion, local_server
from overread.studies.slicer_picture import CLASS_COLOURS, CLASS_FILL, WINDOW_HU, beside_each_other
from overread.studies.slicer_scene import SlicerScene, in_own_process

CASE = "case"
PANEL_PX = (480, 480)
# Okabe and Ito's, which stay apart for readers who cannot tell red from green.
CANDIDATE_COLOURS = {
    "candidate A": (0.00, 0.62, 0.45),
    "candidate B": (0.90, 0.60, 0.00),
    "candidate C": (0.84, 0.37, 0.00),
    "candidate D": (0.94, 0.89, 0.26),
}
CANDIDATE_FILL = 0.55


@dataclass(frozen=True)
class Told:
    """One answer of the server.

    Attributes:
        file: the label map.
        facts: what came with it.
    """

    file: Path
    facts: dict[str, Any]


def two_turns(app: Path, model: Path, image: Path, label: str, choose: str, work: Path) -> tuple[Told, Told]:
    """What a server of the app answers first, and after a candidate was chosen.

    Args:
        model: folder of a MedUHIP model.
        label: the class whose candidates are offered.
        choose: letter of the candidate.
        work: gets a copy of app and image, and the answers.

    Raises:
        BadInputError: the model has no such class, or takes no turns.
    """
    description = read_description(model)
    name = description["name"]
    if description["kind"] != "meduhip" or label not in description["classes"][1:]:
        raise BadInputError(
            f"{model} is a model of kind {description['kind']} with the classes "
            f"{', '.join(description['classes'][1:])}; expected a MedUHIP model with the class {label}"
        )
    folder, studies = work / "app", work / "studies"
    app_with_champion(app, folder)
    ChampionStore(folder / "model").publish(name, model)
    studies.mkdir()
    shutil.copy(image, studies / f"{CASE}.nii.gz")
    reader = {"client_id": "reader", "label": label, "result_extension": ".nrrd", "result_dtype": "uint8"}
    told = []
    with local_server(folder, studies, ["models", name, "scoring", "no"]) as server:
        for number, wishes in enumerate(({}, {"candidate": choose, "candidates": "off"})):
            answered = ask(server.url, name, CASE, reader | {"doubt": "off"} | wishes)
            file = work / f"answer_{number}.nrrd"
            file.write_bytes(answered.file)
            told.append(Told(file, answered.facts))
    return told[0], told[1]


def draw_turns(image: Path, first: Told, then: Told, label: str, choose: str, picture: Path) -> None:
    """Three panels of one slice: the image, the first answer with its candidates, the answer to the choice."""
    classes = [name for name in first.facts["label_names"] if not name.startswith(("candidate ", "doubt: "))]
    offered = first.facts["candidates"][label]
    class_colours = {name: CLASS_COLOURS[n % len(CLASS_COLOURS)] for n, name in enumerate(classes)}
    fills = dict.fromkeys(classes, CLASS_FILL) | dict.fromkeys(CANDIDATE_COLOURS, CANDIDATE_FILL)
    legend = dict(class_colours)
    for one in offered:
        # The font has no minus sign.
        support = f" ({100 * one['support']:.0f} %)" if one["support"] else ""
        words = f"{one['name']}: {one['words'].replace('−', '-')}{support}"
        legend[words] = CANDIDATE_COLOURS[one["name"]]
    with tempfile.TemporaryDirectory() as folder, in_own_process() as slicer:
        panels = [Path(folder) / f"{name}.png" for name in ("plain", "offered", "chosen")]
        colours = class_colours | CANDIDATE_COLOURS
        answers = [(one.file, one.facts["label_names"]) for one in (first, then)]
        slicer.submit(_draw_panels, image, answers, label, panels, colours, fills).result()
        captions = ("the image", "Run: what is shown, and the candidates", f"candidate {choose} was chosen")
        beside_each_other([Image.open(panel).convert("RGB") for panel in panels], legend, picture, captions)


def _draw_panels(
    image: Path,
    answers: Sequence[tuple[Path, dict[str, int]]],
    label: str,
    panels: Sequence[Path],
    colours: dict[str, tuple[float, float, float]],
    fills: dict[str, float],
) -> None:
    """In Slicer's process: the volume alone, and with each answer in turn.

    In the slice with most to choose from, of those in which much of the structure is seen.
    """
    scene = SlicerScene(image, drawn=True)
    scene.import_result(*answers[0])
    segments = scene.segment_voxels()
    disputed = sum(segments[name].sum(axis=(0, 1)) for name in CANDIDATE_COLOURS if name in segments)
    seen = segments[label].sum(axis=(0, 1))
    slice_k = int((disputed * (seen >= seen.max() / 2)).argmax())
    scene.show_segments(False)
    scene.render(panels[0], slice_k, WINDOW_HU, colours, fills, PANEL_PX)
    scene.show_segments(True)
    scene.render(panels[1], slice_k, WINDOW_HU, colours, fills, PANEL_PX)
    scene.import_result(*answers[1])
    scene.render(panels[2], slice_k, WINDOW_HU, colours, fills, PANEL_PX)


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask and draw.

    Raises:
        BadInputError: see `two_turns`.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("app", type=Path, help="folder of our radiology app")
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained MedUHIP model")
    parser.add_argument("--image", type=Path, required=True, help="CT volume with one channel, .nii.gz")
    parser.add_argument("--label", required=True, help="the class whose candidates are drawn")
    parser.add_argument("--choose", default="B", help="letter of the candidate that is chosen")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    wanted = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        first, then = two_turns(
            wanted.app, wanted.model, wanted.image, wanted.label, wanted.choose, Path(scratch)
        )
        draw_turns(wanted.image, first, then, wanted.label, wanted.choose, wanted.out)


if __name__ == "__main__":
    main()
