"""What an ensemble's members say of cases that they have not learnt from, each asked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from threading import Event

from overread.domain import BadInputError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.ensemble.training import StoppedError
from overread.imaging.dataset import Case
from overread.imaging.volumes import read_label_of, read_volume
from overread.learning.comparison import Overlap
from overread.learning.durable import write_json_durably


def overlaps(
    folder: Path,
    cases: Sequence[tuple[Case, Sequence[int]]],
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
    *,
    work: Path | None = None,
    stop: Event | None = None,
) -> dict[str, Overlap]:
    """How an ensemble's predictions overlap with the labels, by case id.

    Args:
        folder: of the ensemble.
        cases: each with the members that may speak of it.
        progress: told the share done, in (0, 1].
        work: keeps each answer, by identity, case and members; what is there is not computed again.
        stop: looked at before each window.

    Raises:
        BadInputError: an image or a label cannot be read, or they do not fit; names the case.
        StoppedError: `stop` was set; what was kept counts.
    """
    description = read_description(folder)
    classes = len(description["classes"])
    ensemble: Ensemble | None = None

    def look(_: float) -> None:
        if stop is not None and stop.is_set():
            raise StoppedError("the comparison was stopped; nothing is lost")

    found: dict[str, Overlap] = {}
    for index, (case, members) in enumerate(cases):
        look(0)
        kept = _place(work, description["identity"], case, members) if work else None
        overlap = _read(kept) if kept else None
        if overlap is None:
            ensemble = ensemble or load_ensemble(folder, device)
            overlap = _ask(ensemble, case, members, classes, device, look)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_json_durably(kept, asdict(overlap))
        found[case.id] = overlap
        if progress is not None:
            progress((index + 1) / len(cases))
    return found


def _ask(
    ensemble: Ensemble,
    case: Case,
    members: Sequence[int],
    classes: int,
    device: str,
    heard: Callable[[float], None],
) -> Overlap:
    speaking = replace(ensemble, members=[ensemble.members[index] for index in members])
    try:
        volume = read_volume(case.channels)
        label = read_label_of(case.label, volume.grid)
        prediction = predict(speaking, volume, measures=(), device=device, progress=heard)
        return Overlap.of(prediction.labels, label, classes)
    except BadInputError as error:
        raise BadInputError(f"case {case.id} cannot be judged: {error}") from error


def _place(work: Path, identity: str, case: Case, members: Sequence[int]) -> Path:
    """Another file for another ensemble, other speakers, or files that were changed."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _existing(case)]
    key = sha256(json.dumps([identity, case.id, list(members), files]).encode()).hexdigest()
    return work / f"{key[:32]}.json"


def _existing(case: Case) -> list[Path]:
    return [path for path in (*case.channels, case.label) if path.exists()]


def _read(path: Path) -> Overlap | None:
    if not path.exists():
        return None
    return Overlap(**{name: tuple(counts) for name, counts in json.loads(path.read_text()).items()})
