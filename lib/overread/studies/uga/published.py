"""Sets that whoever has them brings along: Camelyon16 and 17, and any data set in nnU-Net's raw layout with domains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from overread.domain import BadInputError
from overread.imaging.dataset import Case, Dataset, ensure_sound, read_dataset
from overread.imaging.labelled import (
    LESION,
    LabelledSlide,
    LabelledSlides,
    ensure_slides_sound,
    read_camelyon,
)
from overread.imaging.labelled.camelyon16 import RUMC
from overread.imaging.slides.annotations import to_geojson
from overread.imaging.slides.slide import ASSUMED
from overread.imaging.volumes import read_volume
from overread.studies.uga.sets import OUTLINES, StudyCase, StudySet
from overread.studies.uga.sources import RGB, link_image, source

# As the paper cuts them: about 10x, 1024 pixels wide.
CAMELYON_UM, CAMELYON_PATCH_PX = 1.0, 1024
PICTURE_PATCH_PX = 128
# Where a data set's own domain of that name is the one to be first trained on.
CENTRAL = "central"
ISOLATED_CELLS = "itc"


@source("camelyon", ".")
def camelyon(data: Path, folder: Path, progress: Callable[[float], None]) -> StudySet:
    """Lymph nodes of Camelyon16's first centre (RUMC), and of the five centres of Camelyon17, as the paper has them.

    Without Camelyon17 the other centre is Camelyon16's second; without Camelyon16 the centre with the most slides is
    central. Left out: slides whose lesions nobody outlined, those of Camelyon16 that are outlined in part, and those
    whose centre was not published.

    Raises:
        NotFoundError: no such slides.
        BrokenDatasetError: files that cannot be used, all of them named.
    """
    slides = _of_the_study(read_camelyon(data))
    ensure_slides_sound(slides, lambda done, of: progress(done / of / 2))
    labels = folder / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    cases = []
    for number, slide in enumerate(slides.slides):
        # Files may have capitals, which ids have not.
        image, label = folder / "images" / f"{slide.id}{slide.path.suffix}", labels / f"{slide.id}{OUTLINES}"
        link_image(slide.path, image)
        label.write_text(json.dumps(to_geojson(slide.outlines())) + "\n")
        cases.append(StudyCase(slide.id, image, label, slide.centre, slide.patient, slide.kind))
        progress(0.5 + (number + 1) / len(slides.slides) / 2)
    return StudySet(
        name="camelyon",
        axes=2,
        classes=("background", LESION),
        channels=RGB,
        central=RUMC if RUMC in slides.centres else _most([case.domain for case in cases]),
        cases=tuple(cases),
        um_per_px=CAMELYON_UM,
        patch_px=CAMELYON_PATCH_PX,
        has_glass=True,
    )


@source("raw", ".")
def raw(data: Path, folder: Path, progress: Callable[[float], None]) -> StudySet:
    """Any data set in nnU-Net v2's raw layout whose `patients.csv` says where each case was made.

    The central domain is the one that is called `central`, else the one with the most cases.

    Raises:
        NotFoundError, BadInputError: no such data set, or one that a study cannot be made of; says why.
    """
    dataset = read_dataset(data)
    if not dataset.domains:
        raise BadInputError(
            f"{data} does not say where its cases were made: expected a column `domain` in patients.csv"
        )
    ensure_sound(dataset, lambda done, of: progress(done / of))
    first = dataset.cases[0]
    if len(first.channels) > 1:
        raise BadInputError(
            f"{data} has {len(first.channels)} channel files a case; a study reads one, or RGB pictures"
        )
    axes = len(read_volume(first.channels).grid.shape)
    is_picture = axes == 2
    if is_picture and dataset.um_per_px is None:
        raise BadInputError(
            f"{data} holds pictures, but dataset.json has no um_per_px: how large is a pixel?"
        )
    domains = list(dataset.domains.values())
    return StudySet(
        name=dataset.name,
        axes=axes,
        classes=dataset.classes,
        channels=dataset.channels,
        central=CENTRAL if CENTRAL in domains else _most(domains),
        cases=tuple(_case(dataset, case, folder / "images") for case in dataset.cases),
        um_per_px=dataset.um_per_px,
        file_um=dataset.um_per_px or ASSUMED.um,
        patch_px=PICTURE_PATCH_PX if is_picture else None,
    )


def _of_the_study(slides: LabelledSlides) -> LabelledSlides:
    has_17 = any(slide.id.startswith("patient") for slide in slides.slides)

    def is_wanted(slide: LabelledSlide) -> bool:
        is_known = slide.is_labelled and (slide.is_exhaustive or slide.kind == ISOLATED_CELLS)
        is_second_of_16 = has_17 and not slide.id.startswith("patient") and slide.centre != RUMC
        return bool(slide.centre) and is_known and not is_second_of_16

    return slides.of_slides(slide for slide in slides.slides if is_wanted(slide))


def _case(dataset: Dataset, case: Case, images: Path) -> StudyCase:
    image = images / case.label.name
    link_image(case.channels[0], image)
    return StudyCase(
        case.id, image, case.label.resolve(), dataset.domains[case.id], dataset.patient_of(case.id)
    )


def _most(domains: list[str]) -> str:
    """The most frequent; of several the first by name."""
    counts = Counter(domains)
    return min(counts, key=lambda name: (-counts[name], name))
