"""LIDC crops of Kohl et al. 2019 (arXiv:1905.13077), the bucket `hpunet-data/lidc_crops`.

    lidc_crops_train/images/LIDC-IDRI-0001/z-105.0_c0.png
                     gt/LIDC-IDRI-0001/z-105.0_c0_l0.png … z-105.0_c0_l3.png
    lidc_crops_val/…  lidc_crops_test/…

As the README of `hierarchical_probabilistic_unet` in google-deepmind/deepmind-research tells: 180 x 180 pixels of
0.5 mm around what at least one of four readers outlined, 8843 + 1993 + 1980 images of 530 + 111 + 103 patients. That
README numbers the readers 1 to 4, the files 0 to 3. A number is not a person: LIDC's readers are anonymous.
"""

from __future__ import annotations

import re
from pathlib import Path

from overread.imaging.dataset import Problem
from overread.imaging.rated.dataset import RatedCase, RatedDataset
from overread.imaging.rated.files import FileSource, files_by_name
from overread.imaging.rated.layouts import layout

SPACING_MM = (0.5, 0.5)
READER = re.compile(r"(?P<crop>.+)_l(?P<reader>\d+)")
SIDES = ("images", "gt")
DEPTHS = (".", "*", "*/*")


def _parts(folder: Path) -> list[Path]:
    """Folders that hold `images` and `gt`."""
    found = {
        path.parent.resolve() for depth in DEPTHS for path in folder.glob(f"{depth}/gt") if path.is_dir()
    }
    return sorted(path for path in found if (path / "images").is_dir())


@layout(
    "lidc_kohl",
    looks_like="images/PATIENT/z-105.0_c0.png and gt/PATIENT/z-105.0_c0_l0.png",
    recognises=lambda folder: bool(_parts(folder)),
)
def read_lidc_kohl(folder: Path) -> RatedDataset:
    """List the crops; ids are `PATIENT_z-105.0_c0`, parts are the names of the folders that hold `images` and `gt`."""
    parts = _parts(folder)
    cases: list[RatedCase] = []
    strays: list[Problem] = []
    for part in parts:
        patients = {path.name for side in SIDES for path in (part / side).iterdir() if path.is_dir()}
        for patient in sorted(patients):
            pictured, marked = ((part / side / patient) for side in SIDES)
            masks: dict[str, dict[str, Path]] = {}
            for name, path in (files_by_name(marked) if marked.is_dir() else {}).items():
                match = READER.fullmatch(name)
                crop, reader = (match["crop"], f"l{match['reader']}") if match else (name, "?")
                masks.setdefault(crop, {})[reader] = path
            images = files_by_name(pictured) if pictured.is_dir() else {}
            for crop, path in images.items():
                here = masks.pop(crop, {})
                raters = tuple(sorted(here))
                source = FileSource((path,), tuple(here[rater] for rater in raters), SPACING_MM)
                subset = part.name if len(parts) > 1 else None
                cases.append(RatedCase(f"{patient}_{crop}", patient, raters, source, subset))
            strays += [
                Problem(f"{patient}_{crop}", path.name, "is the mask of no image")
                for crop, files in sorted(masks.items())
                for path in files.values()
            ]
    return RatedDataset(folder.resolve().name, tuple(cases), same_raters=False, strays=tuple(strays))
