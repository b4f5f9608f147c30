"""Camelyon17: 1000 sentinel lymph nodes, five a patient, of five centres.

    training/center_0/patient_000_node_0.tif        20 patients of each centre: 000 … 019 are of centre 0
    training/lesion_annotations/patient_004_node_4.xml      50 slides, ten of each centre
    training/stage_labels.csv                       or stages.csv: patient,stage
                                                    patient_000.zip,pN0
                                                    patient_000_node_0.tif,negative
    testing/…                                       patients 100 … 199, of the centres in the same order

Groups of the XML, by the README: `metastases` are tumour, `normal` was cut out of them. Micro- and macrometastases
are outlined exhaustively, isolated tumour cells are not. A slide with a lesion and no XML is not labelled.
"""

from __future__ import annotations

import re
from pathlib import Path

from overread.imaging.dataset import Problem
from overread.imaging.labelled.dataset import KINDS, LabelledSlide
from overread.imaging.labelled.files import SLIDE_ENDINGS, named_files, orphans, read_rows

NAME = re.compile(r"patient_(?P<patient>\d{3})_node_\d")
PATIENT = re.compile(r"patient_\d{3}(\.zip)?")
TABLES = ("stages.csv", "stage_labels.csv")
HEADER = ["patient", "stage"]
GROUPS = {"metastases": True, "normal": False}
PATIENTS_OF_CENTRE, CENTRES, FIRST_OF_TEST = 20, 5, 100
CENTRE_FOLDER = re.compile(r"cent(?:er|re)_(\d)", re.IGNORECASE)
ISOLATED_CELLS = "itc"


def find_camelyon17(folder: Path) -> tuple[list[LabelledSlide], list[Problem]]:
    """The slides of Camelyon17 below a folder, and what is wrong with how they lie there.

    Raises:
        BadInputError: the table of stages cannot be read.
    """
    slides, problems = named_files(folder, NAME, SLIDE_ENDINGS)
    outlines, doubles = named_files(folder, NAME, (".xml",))
    if not slides:
        return [], []
    kinds, strays = _kinds(folder)
    problems += [*doubles, *orphans(outlines, slides, folder), *strays]
    found = []
    for name, path in slides.items():
        number = int(name.split("_")[1])
        centre = number // PATIENTS_OF_CENTRE % CENTRES
        told = {int(match[1]) for part in path.parts if (match := CENTRE_FOLDER.fullmatch(part))}
        if told and told != {centre}:
            what = f"lies in a folder of centre {sorted(told)[0]}, but patient {number:03d} is of centre {centre}"
            problems.append(Problem(name, path.name, what))
        kind = kinds.get(name, "")
        found.append(
            LabelledSlide(
                id=name,
                path=path,
                patient=f"patient_{number:03d}",
                centre=f"centre_{centre}",
                kind=kind,
                subset="training" if number < FIRST_OF_TEST else "testing",
                annotations=outlines.get(name),
                groups=GROUPS,
                is_exhaustive=kind != ISOLATED_CELLS,
            )
        )
    return found, problems


def _kinds(folder: Path) -> tuple[dict[str, str], list[Problem]]:
    """Kind by slide, and what the table says wrongly."""
    tables = [path for name in TABLES for path in sorted(folder.rglob(name))]
    if not tables:
        what = "is not there: which slides are negative is not known"
        return {}, [Problem("", " or ".join(TABLES), what)]
    path, rows = tables[0], read_rows(tables[0])
    if not rows or [cell.lower() for cell in rows[0][:2]] != HEADER:
        return {}, [
            Problem("", path.name, f"begins with {rows[0] if rows else []}, expected {','.join(HEADER)}")
        ]
    kinds: dict[str, str] = {}
    problems: list[Problem] = []
    for line, row in enumerate(rows[1:], start=2):
        if PATIENT.fullmatch(row[0].lower()):
            continue
        name, stage = Path(row[0]).stem.lower(), row[1].lower() if len(row) > 1 else ""
        if not NAME.fullmatch(name):
            problems.append(Problem("", path.name, f"line {line} names no slide and no patient: {row[0]!r}"))
        elif stage not in KINDS:
            what = f"line {line} says {stage!r}, expected negative, itc, micro or macro"
            problems.append(Problem(name, path.name, what))
        else:
            kinds[name] = stage
    return kinds, problems
