"""Which of a case's labels count, and how several raters' become one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.label_files import SUFFIX, file_name
from overread.raters.fusion import majority, staple
from overread.state.labels import ACCEPTED, APPROVED, QUARANTINED, LabelRow

Consensus = Literal["latest", "majority", "staple"]
CONSENSUS: tuple[Consensus, ...] = get_args(Consensus)
FUSION = {"majority": majority, "staple": staple}


def checked_consensus(name: str) -> Consensus:
    """The name itself. Raises BadInputError for one that there is not."""
    for known in CONSENSUS:
        if name == known:
            return known
    raise BadInputError(f"no consensus is called {name!r}; there are {', '.join(CONSENSUS)}")


def counting(rows: Iterable[LabelRow]) -> list[LabelRow]:
    """The labels of one case that training may use, oldest first.

    Approved labels alone where there are any. Otherwise, of each rater and tag, the newest one if it is accepted:
    what its rater replaced does not come back because the replacement was flagged or withdrawn. It does where the
    replacement was quarantined, which says nothing about what the rater meant.
    """
    rows = sorted(rows, key=lambda row: (row.submitted_at, row.id))
    newest: dict[tuple[str, str], LabelRow] = {}
    approved: dict[tuple[str, str], LabelRow] = {}
    for row in rows:
        if row.status == APPROVED:
            approved[row.rater, row.tag] = row
        if row.status != QUARANTINED:
            newest[row.rater, row.tag] = row
    found = approved or {key: row for key, row in newest.items() if row.status == ACCEPTED}
    return sorted(found.values(), key=lambda row: (row.submitted_at, row.id))


def per_rater(rows: Iterable[LabelRow]) -> list[LabelRow]:
    """Of labels that count, each rater's newest, oldest first."""
    words: dict[str, LabelRow] = {}
    for row in rows:
        words.pop(row.rater, None)
        words[row.rater] = row
    return list(words.values())


def fused(
    folder: Path, cache: Path, rows: Sequence[LabelRow], consensus: Consensus, classes: Sequence[str]
) -> tuple[Path, bool]:
    """One label of several raters' and whether some of it is `IGNORE`. Made once, kept below `cache`.

    Args:
        folder: of the label store.
        rows: one a rater.
        classes: the background first.
    """
    if not classes:
        raise BadInputError(f"consensus {consensus} needs the names of the classes")
    made_of = "\n".join([consensus, str(len(classes)), *sorted(row.sha256 for row in rows)])
    name = hashlib.sha256(made_of.encode()).hexdigest()[:16] + SUFFIX
    path = cache / file_name(rows[0].case_id) / name
    if path.exists():
        return path, bool((read_labelmap(path)[0] == IGNORE).any())
    read = [read_labelmap(folder / row.file) for row in rows]
    label = FUSION[consensus]([np.asarray(values) for values, _ in read], len(classes))
    write_nifti(path, label, read[0][1])
    return path, bool((label == IGNORE).any())
