"""A data set of pictures that were cut from slides, brought to one laboratory's colours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from overread.domain import BadInputError
from overread.domain.slides import PixelSize
from overread.imaging.dataset import DESCRIPTION, Case, Dataset, read_dataset
from overread.imaging.patients import FILE as PATIENTS
from overread.imaging.slides.colours import map_between, mean_moments, recoloured
from overread.imaging.slides.normalised import centre_of, colours_around
from overread.imaging.slides.slide import ASSUMED, open_slide

RGB = 3


@dataclass(frozen=True)
class Recoloured:
    """What was made.

    Attributes:
        dataset: the copy.
        centres: whose slides were measured together.
        alone: pictures whose centre nobody told; their slide, or patient, was measured alone.
    """

    dataset: Dataset
    centres: tuple[str, ...]
    alone: int


@dataclass(frozen=True)
class _Origin:
    """A slide, or a patient whose slides are not named, and how it is coloured."""

    centre: str
    moments: np.ndarray


def recolour_dataset(
    folder: Path,
    out: Path,
    assumed: PixelSize = ASSUMED,
    heard: Callable[[int, int], None] = lambda _done, _of: None,
) -> Recoloured:
    """Write a copy in which every picture has the mean colours of all slides, and `dataset.json` says which these are.

    Each picture goes through the map of its slide; where `dataset.json` names no slide for it, of all pictures of its
    patient. Slides and patients of one centre (`patients.csv`) go through one map. A model that is trained on the copy
    sees slides in the same colours.

    Args:
        folder: in nnU-Net's raw layout, with `um_per_px`.
        out: must not exist; appears complete or not at all.
        assumed: pixel size of slides that do not tell theirs.
        heard: is told how many pictures are done, and of how many.

    Raises:
        BadInputError: the pictures were not cut from slides or have other channels than R, G and B, were brought to
            some colours already, or something is in the way.
    """
    folder, out = Path(folder), Path(out)
    dataset = read_dataset(folder)
    if dataset.um_per_px is None:
        raise BadInputError(
            f"{folder}: pictures that were cut from slides are recoloured, and no um_per_px is said"
        )
    if dataset.colours is not None:
        raise BadInputError(f"{folder} was recoloured already")
    if out.exists():
        raise BadInputError(f"{out} exists already")
    origins = _origins(dataset, assumed)
    reference = np.mean([origin.moments for origin in origins.values()], axis=0)
    maps = {name: map_between(origin.moments, reference) for name, origin in origins.items()}
    staging = out.with_name(f".{out.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (staging / part).mkdir(parents=True)
    for done, case in enumerate(dataset.cases, start=1):
        (path,) = case.channels
        turned = recoloured(_picture(path), maps[_origin_of(dataset, case)])
        Image.fromarray(turned).save(staging / "imagesTr" / f"{path.stem}.png")
        shutil.copyfile(case.label, staging / "labelsTr" / case.label.name)
        heard(done, len(dataset.cases))
    description = json.loads((folder / DESCRIPTION).read_text())
    slides = {
        case: Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()
        for case, path in dataset.slides.items()
    }
    told = {"slides": slides} if slides else {}
    written = {**description, **told, "colours": reference.tolist()}
    (staging / DESCRIPTION).write_text(json.dumps(written, indent=2) + "\n")
    if (folder / PATIENTS).is_file():
        shutil.copyfile(folder / PATIENTS, staging / PATIENTS)
    staging.rename(out)
    alone = sum(not origins[_origin_of(dataset, case)].centre for case in dataset.cases)
    return Recoloured(
        read_dataset(out), tuple(sorted({origin.centre for origin in origins.values()} - {""})), alone
    )


def _origins(dataset: Dataset, assumed: PixelSize) -> dict[str, _Origin]:
    """Each slide, and each patient whose slides are not named; those of one centre have its mean colours."""
    assert dataset.um_per_px is not None
    pictures: dict[str, list[Path]] = {}
    slides: dict[str, Path] = {}
    centres: dict[str, str] = {}
    for case in dataset.cases:
        if len(case.channels) != 1 or case.channels[0].suffix.lower() != ".png":
            raise BadInputError(f"case {case.id} is no colour picture (one PNG of red, green and blue)")
        name = _origin_of(dataset, case)
        pictures.setdefault(name, []).append(case.channels[0])
        centres[name] = dataset.domains.get(case.id, "")
        if case.id in dataset.slides:
            slides[name] = dataset.slides[case.id]
            centres[name] = centres[name] or centre_of(slides[name])
    found = {}
    for name, paths in pictures.items():
        if name in slides:
            with open_slide(slides[name], assumed) as slide:
                found[name] = colours_around(slide, PixelSize(dataset.um_per_px))
        else:
            found[name] = mean_moments(_picture(path) for path in paths)
    together = {
        centre: np.mean([now for name, now in found.items() if centres[name] == centre], axis=0)
        for centre in set(centres.values()) - {""}
    }
    return {name: _Origin(centres[name], together.get(centres[name], now)) for name, now in found.items()}


def _origin_of(dataset: Dataset, case: Case) -> str:
    slide = dataset.slides.get(case.id)
    return f"patient {dataset.patient_of(case.id)}" if slide is None else f"slide {slide}"


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if len(picture.getbands()) != RGB:
            raise BadInputError(
                f"{path} has {len(picture.getbands())} channels, expected red, green and blue"
            )
        return np.asarray(picture)
