"""What the demos differ in: their data, their starter model, and what their viewer's user clicks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Parts of a slide that the starter model learns from: a quarter of a millimetre across.
PATCH_PX = 256
PATCHES_PER_SLIDE = 24
# At 2 µm a network for two cores sees a gland and its surroundings.
UM_PER_PX = 2.0


@dataclass(frozen=True)
class Demo:
    """One demo.

    Attributes:
        app: name of the folder below `apps/`.
        recipe: of the starter model.
        minutes: training steps of all members together; preparing the cases and calibration come on top.
        sample: folder below `sample-data/`.
        wanted: what is being made, for the spinner.
        make: writes the sample data.
        cases: below the sample folder, what the starter model learns from; nnU-Net's raw layout.
        copy: what is served: from the sample folder into the studies folder, without what is there.
        clicks: what to do in the viewer; `{address}` and `{recipe}` are filled in.
        hint: a remark before the server starts; `{sample}` and `{recipe}` are filled in.
    """

    app: str
    recipe: str
    minutes: float
    sample: str
    wanted: str
    make: Callable[[Path], None]
    cases: str
    copy: Callable[[Path, Path], None]
    clicks: str
    hint: str = ""


def copy_studies(images: Path, studies: Path) -> None:
    """Copy images that are not there yet, named by case: the server writes labels and a database beside them."""
    studies.mkdir(parents=True, exist_ok=True)
    for image in sorted(images.glob("*.nii.gz")):
        target = studies / re.sub(r"_0000(?=\.nii\.gz$)", "", image.name)
        if not target.exists():
            shutil.copyfile(image, target)


def copy_slides(slides: Path, studies: Path) -> None:
    """Copy slides that are not there yet, and the table of their patients and centres."""
    studies.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in slides.iterdir() if path.is_file()):
        if not (studies / file.name).exists():
            shutil.copyfile(file, studies / file.name)


def _make_phantoms(sample: Path) -> None:
    from overread.studies.phantom import make_phantoms

    make_phantoms(sample)


def _make_slides(sample: Path) -> None:
    from overread.studies.slides.dataset import make_demo

    make_demo(sample, um_per_px=UM_PER_PX, patch_px=PATCH_PX, per_slide=PATCHES_PER_SLIDE)


RADIOLOGY = Demo(
    app="radiology",
    recipe="liver_phantom",
    minutes=3.5,
    sample="phantom",
    wanted="sample data: computed phantoms, no patient stands behind them",
    make=_make_phantoms,
    cases="",
    copy=lambda sample, studies: copy_studies(sample / "imagesTs", studies),
    clicks=(
        "In 3D Slicer:\n"
        "  1. Once: View > Extensions Manager, install [bold]MONAILabel[/bold], restart.\n"
        "  2. Modules > Active Learning > [bold]MONAILabel[/bold].\n"
        "  3. MONAI Label server: [bold]{address}[/bold], then the round arrow.\n"
        "  4. [bold]Next Sample[/bold] loads a study.\n"
        "  5. Auto Segmentation > model [bold]{recipe}[/bold] > [bold]Run[/bold].\n"
        "     `doubt: high` and `doubt: moderate` mark the regions to look at.\n"
        "  6. Open [bold]Segment Editor[/bold] above Auto Segmentation, correct, then [bold]Submit Label[/bold].\n"
        "     Doubt is not saved with the label.\n"
        "  7. [bold]Next Sample[/bold] again: the volume's name says why this study was chosen.\n"
        "  8. After a few labels [bold]Train[/bold]: the networks learn from them for some minutes, and what they\n"
        "     become is served only if it is better on studies that it never learnt from.\n"
        "     [bold]overread watch[/bold] and [bold]overread models list[/bold] show how that goes.\n"
    ),
    hint=(
        "To see first what asking by doubt may bring, about a minute: "
        "overread simulate {recipe} --data '{sample}' --quick --jobs 2"
    ),
)

PATHOLOGY = Demo(
    app="pathology",
    recipe="tumour_slides",
    minutes=3.5,
    sample="slides",
    wanted="sample slides of five hospitals: computed, no patient stands behind them",
    make=_make_slides,
    cases="patches",
    copy=lambda sample, studies: copy_slides(sample / "studies", studies),
    clicks=(
        "In QuPath (0.3 or 0.4) with the MONAI Label extension 0.3.1:\n"
        "  1. Once: drag the extension's jar onto QuPath, restart; Edit > Preferences > MONAI Label >\n"
        "     Server URL: [bold]{address}[/bold].\n"
        "  2. Menu MONAI Label > [bold]Next Sample/Patch…[/bold] (Ctrl+N), strategy\n"
        "     [bold]sure_and_unsure[/bold]: opens the slide that holds the patch to be asked about first.\n"
        "  3. Ctrl+N again, with `Next Patch` ticked: a rectangle is drawn where the members doubt, or are surest.\n"
        "     Double-click it in the list of annotations to go there.\n"
        "  4. With the rectangle selected: [bold]Annotations…[/bold] (Ctrl+M), model [bold]{recipe}[/bold].\n"
        "     Outlines of `Tumor`, and of `doubt high` and `doubt moderate`, the places to look at.\n"
        "  5. Correct the outlines of `Tumor`. Points of class Positive or Negative inside a rectangle steer the\n"
        "     next Ctrl+M. Nothing to outline? Give the rectangle itself the class `background`.\n"
        "  6. [bold]Submit Label[/bold] (Alt+M), answer [bold]No[/bold]: learnt from is what you outlined in\n"
        "     the patches that you were shown, and nothing outside. `Yes` submits a rectangle that you selected.\n"
        "  7. After patches of three slides [bold]Training…[/bold] (Ctrl+T): what the networks become is served only\n"
        "     if it is better here, in no hospital worse, and forgets nothing.\n"
    ),
)

DEMOS = {demo.app: demo for demo in (RADIOLOGY, PATHOLOGY)}
