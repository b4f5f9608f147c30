"""Data sets with one rater: one structure of nnU-Net's raw layout, or of `images/` beside `labels/`."""

from __future__ import annotations

from pathlib import Path

from overread.domain import BadInputError, NotFoundError
from overread.imaging.dataset import DESCRIPTION, Problem, read_dataset
from overread.imaging.rated.dataset import RatedCase, RatedDataset
from overread.imaging.rated.files import FileSource, OfClass, files_by_name
from overread.imaging.rated.layouts import layout
from overread.imaging.rated.patients import find_owners

RATER = "reference"
MM_PER_UM = 1e-3


@layout(
    "nnunet_raw",
    looks_like=f"{DESCRIPTION}, imagesTr/ and labelsTr/",
    recognises=lambda folder: (folder / DESCRIPTION).is_file(),
)
def read_nnunet_raw(folder: Path, *, structure: str | None = None) -> RatedDataset:
    """List the cases of nnU-Net v2's raw layout; their one rater is called `reference`.

    Args:
        folder: holds `dataset.json`.
        structure: name of the class that the masks hold; needed where there are several.

    Raises:
        NotFoundError: no such class. BadInputError: several classes, and none was chosen; as `read_dataset`.
    """
    dataset = read_dataset(folder)
    foreground = dataset.classes[1:]
    if structure is None and len(foreground) > 1:
        raise BadInputError(
            f"{folder} has several classes; say which by `structure`: {', '.join(foreground)}"
        )
    chosen = dataset.classes[1] if structure is None else structure
    if chosen not in foreground:
        raise NotFoundError(f"{folder} has no class {chosen!r}; there are {', '.join(foreground)}")
    edge_mm = None if dataset.um_per_px is None else dataset.um_per_px * MM_PER_UM
    cases = tuple(
        RatedCase(
            id=case.id,
            patient=dataset.patient_of(case.id),
            raters=(RATER,),
            source=FileSource(
                images=case.channels,
                masks=(case.label,),
                spacing_mm=None if edge_mm is None else (edge_mm, edge_mm),
                read_mask=OfClass(dataset.classes.index(chosen)),
            ),
        )
        for case in dataset.cases
    )
    return RatedDataset(f"{dataset.name} {chosen}", cases)


@layout(
    "paired",
    looks_like="images/CASE.* and labels/CASE.*",
    recognises=lambda folder: (folder / "images").is_dir() and (folder / "labels").is_dir(),
)
def read_paired(folder: Path, *, value: int = 1, patient_pattern: str | None = None) -> RatedDataset:
    """List the cases of `images/` and `labels/` with the same names; their one rater is called `reference`.

    Args:
        folder: holds `images` and `labels`, perhaps a table as in the layout `rated`.
        value: of the label maps, that the masks hold.
        patient_pattern: regular expression that finds the patient in a case's id; a table goes before it.

    Raises:
        BadInputError: the value is the background's.
    """
    if value < 1:
        raise BadInputError(f"value {value} is no structure; label maps number theirs from 1")
    images, labels = files_by_name(folder / "images"), files_by_name(folder / "labels")
    owners = find_owners(folder, images, patient_pattern)
    strays = [
        Problem(name, labels[name].name, "is the label of no image") for name in labels.keys() - images.keys()
    ]
    cases = []
    for name, path in images.items():
        label = labels.get(name)
        source = FileSource((path,), () if label is None else (label,), read_mask=OfClass(value))
        raters = () if label is None else (RATER,)
        cases.append(RatedCase(name, owners.patients[name], raters, source, owners.subsets.get(name)))
    return RatedDataset(
        folder.resolve().name,
        tuple(cases),
        strays=(*sorted(strays, key=lambda stray: stray.case), *owners.strays),
    )
