"""Camelyon16: 399 sentinel lymph nodes, one a patient, of two centres.

    training/normal/normal_001.tif … 160            RUMC up to 100, UMCU from 101 on
    training/tumor/tumor_001.tif … 111              RUMC up to 70 and 111, UMCU 71 to 110
    training/lesion_annotations/tumor_001.xml
    testing/images/test_001.tif … 130               which centre each is of was not published
    testing/lesion_annotations/test_001.xml
    testing/reference.csv                           no header: test_001,Tumor,…,Macro

Groups of the XML, by the README: `_0` and `_1` are tumour, `_2` was cut out of them; later files call them `Tumor` and
`Exclusion`. The README also names what was withdrawn and which slides are not outlined exhaustively.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from overread.imaging.dataset import Problem
from overread.imaging.labelled.dataset import NEGATIVE, TUMOUR, LabelledSlide
from overread.imaging.labelled.files import SLIDE_ENDINGS, named_files, orphans, read_rows

NAME = re.compile(r"(?P<part>normal|tumor|test)_(?P<number>\d{3})")
REFERENCE = "reference.csv"
GROUPS = {"_0": True, "_1": True, "Tumor": True, "_2": False, "Exclusion": False}
RUMC, UMCU = "RUMC", "UMCU"
# The last slide of the first centre.
LAST_OF_RUMC = {"normal": 100, "tumor": 70}
# Was `normal_086` before somebody saw its tumour.
RENAMED = "tumor_111"
WITHDRAWN = {
    "normal_086": "it was misclassified and is tumor_111 now",
    "test_049": "it is a duplicate of another slide",
}
NOT_EXHAUSTIVE = frozenset(
    {
        f"tumor_{number:03d}"
        for number in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)
    }
    | {"test_114"}
)
EXTENTS = ("macro", "micro", "itc")
LABELS = ("tumor", "normal")

log = logging.getLogger(__name__)


def find_camelyon16(folder: Path) -> tuple[list[LabelledSlide], list[Problem]]:
    """The slides of Camelyon16 below a folder, and what is wrong with how they lie there.

    Raises:
        BadInputError: `reference.csv` cannot be read.
    """
    slides, problems = named_files(folder, NAME, SLIDE_ENDINGS)
    outlines, doubles = named_files(folder, NAME, (".xml",))
    for name in sorted(WITHDRAWN.keys() & slides.keys()):
        log.info("%s of Camelyon16 is left out: %s", name, WITHDRAWN[name])
        del slides[name]
        outlines.pop(name, None)
    problems += doubles
    if not slides:
        return [], []
    problems += orphans(outlines, slides, folder)
    kinds, strays = _kinds_of_test(folder, any(name.startswith("test") for name in slides))
    found = []
    for name, path in slides.items():
        part = name.partition("_")[0]
        kind = {"normal": NEGATIVE, "tumor": TUMOUR}.get(part) or kinds.get(name, "")
        if kind not in ("", NEGATIVE) and name not in outlines:
            what = f"shows a tumour, but {name}.xml is not there; is lesion_annotations.zip unpacked?"
            strays.append(Problem(name, path.name, what))
        found.append(
            LabelledSlide(
                id=name,
                path=path,
                patient=name,
                centre=_centre(name),
                kind=kind,
                subset="testing" if part == "test" else "training",
                annotations=outlines.get(name),
                groups=GROUPS,
                is_exhaustive=name not in NOT_EXHAUSTIVE,
            )
        )
    return found, problems + strays


def _centre(name: str) -> str:
    part, _, number = name.partition("_")
    if part == "test":
        return ""
    return RUMC if int(number) <= LAST_OF_RUMC[part] or name == RENAMED else UMCU


def _kinds_of_test(folder: Path, has_test: bool) -> tuple[dict[str, str], list[Problem]]:
    """Kind by slide of the test part, and what the table says wrongly."""
    tables = sorted(folder.rglob(REFERENCE))
    if not tables:
        missing = [Problem("", REFERENCE, "is not there: which test slides are negative is not known")]
        return {}, missing if has_test else []
    kinds: dict[str, str] = {}
    problems: list[Problem] = []
    for line, row in enumerate(read_rows(tables[0]), start=1):
        name = Path(row[0]).stem.lower()
        cells = [cell.lower() for cell in row[1:]]
        if not NAME.fullmatch(name):
            # Some copies have a header.
            if line > 1:
                problems.append(Problem("", REFERENCE, f"line {line} names no slide: {row[0]!r}"))
        elif not cells or cells[0] not in LABELS:
            what = f"line {line} says {row[1] if cells else ''!r}, expected Tumor or Normal"
            problems.append(Problem(name, REFERENCE, what))
        else:
            extent = next((cell for cell in cells if cell in EXTENTS), TUMOUR)
            kinds[name] = NEGATIVE if cells[0] == "normal" else extent
    return kinds, problems
