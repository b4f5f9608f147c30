"""REFUGE2 with the seven readers' masks apart, as published on Hugging Face (`realslimman/REFUGE-MultiRater`).

    Training-400/0826/0826.jpg
                      0826_seg_cup_1.png … 0826_seg_cup_7.png
                      0826_seg_disc_1.png … 0826_seg_disc_7.png
    Test-400/…

Layout as the loaders of the MedSegDiff / Medical-SAM-Adapter family (SuperMedIntel) read it; they take what is
above half of 255 as marked. Some of them read crops around the disc, `0826_cropped.jpg` and
`0826_seg_cup_1_cropped.jpg`.
Nobody of this project has seen the files themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

from overread.domain import BadInputError, NotFoundError
from overread.imaging.rated.dataset import RatedCase, RatedDataset
from overread.imaging.rated.files import FileSource, brighter_than_half
from overread.imaging.rated.layouts import layout
from overread.imaging.rated.naming import unique_names

STRUCTURES = ("cup", "disc")
MASK = re.compile(
    r"(?P<case>.+)_seg_(?P<structure>cup|disc)_(?P<rater>\d+)(?P<cropped>_cropped)?\.(png|jpg|bmp)"
)
PATTERNS = ("*_seg_*.*", "*/*_seg_*.*", "*/*/*_seg_*.*", "*/*/*/*_seg_*.*")
IMAGE_SUFFIXES = (".jpg", ".png", ".bmp")
# `Training-400` is the part `Training`.
SUBSET = re.compile(r"(?P<name>Training|Validation|Test)(-\d+)?", re.IGNORECASE)


def _recognises(folder: Path) -> bool:
    return any(MASK.fullmatch(path.name) for pattern in PATTERNS for path in folder.glob(pattern))


@layout("refuge2_multirater", looks_like="0001/0001.jpg and 0001/0001_seg_cup_1.png", recognises=_recognises)
def read_refuge2(folder: Path, *, structure: str = "cup", cropped: bool = False) -> RatedDataset:
    """List the cases.

    Args:
        folder: holds `Training-400` and `Test-400`, or is one of them.
        structure: `cup` or `disc`.
        cropped: read the crops around the disc.

    Raises:
        BadInputError: neither cup nor disc. NotFoundError: no mask of that kind.
    """
    if structure not in STRUCTURES:
        raise BadInputError(f"REFUGE2 has no structure {structure!r}; there are {' and '.join(STRUCTURES)}")
    masks: dict[Path, dict[int, Path]] = {}
    for path in (path for pattern in PATTERNS for path in sorted(folder.resolve().glob(pattern))):
        match = MASK.fullmatch(path.name)
        if match is None or bool(match["cropped"]) != cropped:
            continue
        files = masks.setdefault(path.parent / match["case"], {})
        if match["structure"] == structure:
            files[int(match["rater"])] = path
    if not any(masks.values()):
        kind = f"cropped {structure}" if cropped else structure
        raise NotFoundError(f"{folder} holds no mask of the {kind}")
    stems = sorted(masks)
    subsets = [_subset(stem) for stem in stems]
    ids = unique_names([stem.name for stem in stems], subsets)
    cases = []
    for stem, case, subset in zip(stems, ids, subsets, strict=True):
        raters = sorted(masks[stem])
        source = FileSource(
            images=(_image(stem, cropped),),
            masks=tuple(masks[stem][rater] for rater in raters),
            read_mask=brighter_than_half,
        )
        cases.append(RatedCase(case, case, tuple(f"rater{rater}" for rater in raters), source, subset))
    return RatedDataset(f"REFUGE2 {structure}", tuple(cases))


def _image(stem: Path, cropped: bool) -> Path:
    name = f"{stem.name}_cropped" if cropped else stem.name
    files = [stem.parent / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in files if path.exists()), files[0])


def _subset(stem: Path) -> str | None:
    matches = (SUBSET.fullmatch(parent.name) for parent in (stem.parent, stem.parent.parent))
    return next((match["name"].capitalize() for match in matches if match), None)
