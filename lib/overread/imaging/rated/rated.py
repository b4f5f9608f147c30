"""Overread's own layout of cases that several people labelled.

    images/CASE.png               or .tif, .jpg, .nii.gz, .nrrd …
    masks/CASE_RATER.png          0 and one other value; one file for each rater
    patients.csv or index.csv     optional: columns case (or id), patient, subset

A rater without a file did not look at that case; a rater with an empty mask looked and marked nothing. A rater's name
holds no `_` where the case's name would be ambiguous: the longest name of an image that fits is the case's.
"""

from __future__ import annotations

import re
from pathlib import Path

from overread.imaging.dataset import Problem
from overread.imaging.rated.dataset import RatedCase, RatedDataset
from overread.imaging.rated.files import FileSource, files_by_name
from overread.imaging.rated.layouts import layout
from overread.imaging.rated.patients import find_owners


def _recognises(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


@layout("rated", looks_like="images/CASE.* and masks/CASE_RATER.*", recognises=_recognises)
def read_rated_layout(
    folder: Path, *, patient_pattern: str | None = None, same_raters: bool | None = None
) -> RatedDataset:
    """List the cases.

    Args:
        folder: holds `images` and `masks`.
        patient_pattern: regular expression that finds the patient in a case's id; a table goes before it.
        same_raters: whether a rater's name is the same person in every case. None: yes, but for LIDC-IDRI.
    """
    images = files_by_name(folder / "images")
    masks: dict[str, dict[str, Path]] = {name: {} for name in images}
    strays = []
    for name, path in files_by_name(folder / "masks").items():
        fitting = [name[:end] for end in range(len(name)) if name[end] == "_" and name[:end] in images]
        if fitting:
            case = fitting[-1]
            masks[case][name[len(case) + 1 :]] = path
        else:
            strays.append(Problem(name, path.name, "is the mask of no image"))
    owners = find_owners(folder, images, patient_pattern)
    cases = []
    for case, path in images.items():
        raters = tuple(sorted(masks[case], key=natural_order))
        source = FileSource((path,), tuple(masks[case][rater] for rater in raters))
        cases.append(RatedCase(case, owners.patients[case], raters, source, owners.subsets.get(case)))
    return RatedDataset(
        name=folder.resolve().name,
        cases=tuple(cases),
        same_raters=not owners.are_lidc if same_raters is None else same_raters,
        strays=(*strays, *owners.strays),
    )


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """A key that puts `r2` before `r10`."""
    return tuple((text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name))
