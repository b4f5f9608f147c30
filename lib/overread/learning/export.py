"""Accepted labels for the world outside: nnU-Net's raw layout, and where each label came from.

    dataset.json                     as nnU-Net v2 wants it; `patients` says whose the cases are
    imagesTr/CASE_0000.nii.gz        the image as it is in the studies folder; `.png` where all images are pictures
    labelsTr/CASE.nii.gz             class indices; what nobody labelled is nnU-Net's `ignore`
    provenance.json, provenance.csv  one entry for each label that a case's label is made of

Protected cases are exported with the others and marked: who trains on them cannot judge by them any more.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.imaging.volumes import (
    PICTURE_SUFFIXES,
    read_array,
    read_label_of,
    read_volume,
    write_nifti,
)
from overread.learning.accepted import AcceptedLabels
from overread.learning.consensus import checked_consensus, counting, fused, per_rater
from overread.learning.durable import new_folder, write_json_durably
from overread.learning.label_files import file_name, sha256_of
from overread.state.labels import LabelRow, labels

NIFTI, PNG = ".nii.gz", ".png"
# What is told of a label, beside what is worked out here.
TOLD = (
    "patient",
    "rater",
    "revision",
    "champion",
    "status",
    "tag",
    "strategy",
    "arm",
    "took_s",
    "dice_to_proposal",
    "partial",
    "protected",
)
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        cases: their names, as the files are called.
        labels: how many readers' labels they are made of.
        left_out: a sentence for each case that has a label and could not be exported.
    """

    cases: tuple[str, ...]
    labels: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Chosen:
    """A case, its image, and the labels that count."""

    case: str
    image: Path
    rows: tuple[LabelRow, ...]


def export_labels(
    folder: Path,
    accepted: AcceptedLabels,
    recipe: str,
    description: Mapping[str, Any],
    image_of: Callable[[str], Path | None],
    consensus: str = "latest",
    whole_only: bool = False,
    report: Report = lambda what, share: None,
) -> Exported:
    """Write the labels of a recipe that are in use; nothing of the label store changes.

    Args:
        folder: must not exist, or be empty.
        description: of the recipe's champion: `classes`, `channels`, `plan`.
        image_of: file of a case's image; None where it is not here.
        consensus: `latest`, `majority` or `staple`: what becomes of several readers' labels of a case.
        whole_only: leave out labels that say nothing about some voxels.

    Raises:
        BadInputError: the folder holds something, an unknown consensus, or there is no label to export.
        OverreadError: a file cannot be written; nothing is left of the export then.
    """
    consensus = checked_consensus(consensus)
    classes = tuple(description["classes"])
    left_out: list[str] = []
    chosen = list(_chosen(accepted, recipe, classes, image_of, consensus, whole_only, left_out))
    pictures = all(one.image.name.lower().endswith(PICTURE_SUFFIXES) for one in chosen)
    ending = PNG if pictures else NIFTI
    names: list[str] = []
    told: list[dict[str, Any]] = []
    patients: dict[str, str] = {}
    has_ignore = False
    with new_folder(Path(folder), "the export") as part:
        for number, one in enumerate(chosen):
            report(one.case, number / len(chosen))
            name = file_name(one.case)
            try:
                values, grid = _label_of(one, accepted, consensus, classes, part / ".consensus")
                _write_image(one.image, part / "imagesTr", name, ending)
            except BadInputError as error:
                left_out.append(f"{one.case}: {error}")
                continue
            target = part / "labelsTr" / f"{name}{ending}"
            has_ignore = has_ignore or bool((values == IGNORE).any())
            _write(target, np.where(values == IGNORE, len(classes), values).astype(np.uint8), grid)
            names.append(name)
            patients[name] = one.rows[0].patient
            told += [_provenance(name, one.case, row, consensus, sha256_of(target)) for row in one.rows]
        if not names:
            why = f": {left_out[0]}" if left_out else "; none was accepted yet"
            raise BadInputError(f"there is no label of {recipe} to export{why}")
        shutil.rmtree(part / ".consensus", ignore_errors=True)
        write_json_durably(
            part / "dataset.json",
            _dataset_json(recipe, description, classes, has_ignore, len(names), ending, patients),
        )
        write_json_durably(part / "provenance.json", told)
        _write_csv(part / "provenance.csv", told)
    report("done", 1.0)
    return Exported(tuple(names), len(told), tuple(left_out))


def _chosen(
    accepted: AcceptedLabels,
    recipe: str,
    classes: tuple[str, ...],
    image_of: Callable[[str], Path | None],
    consensus: str,
    whole_only: bool,
    left_out: list[str],
) -> Iterator[_Chosen]:
    """Cases whose labels count, by name; the others' reasons go to `left_out`."""
    by_case: dict[str, list[LabelRow]] = {}
    with accepted.database.reading() as c:
        for row in labels(c, recipe=recipe):
            by_case.setdefault(row.case_id, []).append(row)
    for case, rows in sorted(by_case.items()):
        words = counting(rows)
        if not words:
            left_out.append(f"{case}: its labels are withdrawn, flagged or quarantined")
            continue
        used = words[-1:] if consensus == "latest" else per_rater(words)
        image = image_of(case)
        if image is None:
            left_out.append(f"{case}: its image is not here")
        elif whole_only and any(row.partial for row in used):
            left_out.append(f"{case}: its label says nothing about some voxels")
        elif fault := next(filter(None, (_fault(accepted.folder, row, classes) for row in used)), ""):
            left_out.append(f"{case}: {fault}")
        else:
            yield _Chosen(case, image, tuple(used))


def _fault(folder: Path, row: LabelRow, classes: tuple[str, ...]) -> str:
    """Why a label cannot be exported; empty where it can."""
    said = tuple(row.details.get("classes", ()))
    if said and said != classes:
        return f"{row.file} speaks of the classes {', '.join(said)}, the champion of {', '.join(classes)}"
    path = folder / row.file
    if not path.is_file():
        return f"{row.file} is gone"
    return "" if sha256_of(path) == row.sha256 else f"{row.file} is not what was accepted: its sha256 differs"


def _label_of(
    one: _Chosen, accepted: AcceptedLabels, consensus: Any, classes: Sequence[str], cache: Path
) -> tuple[np.ndarray, Any]:
    """Class indices `(*space)` on the image's grid, and that grid."""
    if len(one.rows) == 1:
        file = accepted.folder / one.rows[0].file
    else:
        file, _ = fused(accepted.folder, cache, one.rows, consensus, classes)
    grid = read_array(one.image)[1]
    return read_label_of(file, grid), grid


def _write_image(image: Path, folder: Path, name: str, ending: str) -> None:
    """One file a channel; as it is where it is of that kind already. A colour PNG holds its channels in one file."""
    folder.mkdir(exist_ok=True)
    if image.name.lower().endswith(ending):
        shutil.copyfile(image, folder / f"{name}_0000{ending}")
        return
    if ending == PNG:
        array, _ = read_array(image)
        if array.dtype != np.uint8:
            raise BadInputError(f"the picture holds {array.dtype}, and only 8 bits are exported as PNG")
        Image.fromarray(np.ascontiguousarray(array.T)).save(folder / f"{name}_0000{PNG}")
        return
    volume = read_volume([image])
    for channel, voxels in enumerate(volume.voxels):
        write_nifti(folder / f"{name}_{channel:04d}{NIFTI}", voxels, volume.grid)


def _write(path: Path, values: np.ndarray, grid: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.name.endswith(PNG):
        Image.fromarray(np.ascontiguousarray(values.T)).save(path)
    else:
        write_nifti(path, values, grid)


def _provenance(name: str, case: str, row: LabelRow, consensus: str, digest: str) -> dict[str, Any]:
    when = datetime.fromtimestamp(row.submitted_at, UTC).isoformat(timespec="seconds")
    known = {key: getattr(row, key) for key in TOLD}
    source = {"source_file": row.file, "source_sha256": row.sha256, "label_sha256": digest}
    return {"name": name, "case": case, "accepted_at": when, "consensus": consensus, **known, **source}


def _dataset_json(
    recipe: str,
    description: Mapping[str, Any],
    classes: Sequence[str],
    has_ignore: bool,
    cases: int,
    ending: str,
    patients: Mapping[str, str],
) -> dict[str, Any]:
    values = {name: value for value, name in enumerate(classes)}
    um_per_px = description.get("plan", {}).get("um_per_px")
    return {
        "name": recipe,
        "channel_names": {str(i): name for i, name in enumerate(description["channels"])},
        "labels": values | ({"ignore": len(classes)} if has_ignore else {}),
        "numTraining": cases,
        "file_ending": ending,
        "patients": dict(patients),
    } | ({} if um_per_px is None else {"um_per_px": um_per_px})


def _write_csv(path: Path, told: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(told[0]))
        table.writeheader()
        table.writerows(told)
