"""The sessions of a study as one file, so that it goes on where its work folder is gone, or on another machine."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.ensemble.member_training import write_json

FILE = "sessions.json.gz"
# Digits of a Dice that are kept.
DIGITS = 6


def pack(work: Path, path: Path) -> None:
    """Write what arms of all seeds and folds have played in a work folder; not their weights."""
    study = json.loads((work / "study.json").read_text())
    pieces = [rounded(json.loads(piece.read_text())) for piece in sorted(work.glob("seed_*/fold_*/*.json"))]
    text = json.dumps({"study": study, "pieces": pieces}, separators=(",", ":"))
    # Without a time in it, the same sessions are the same file.
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def unpack(path: Path, work: Path) -> int:
    """Put packed sessions into a work folder, where they count as done; what is there already stays.

    Returns:
        How many pieces were put there.

    Raises:
        BadInputError: the file holds no sessions, or those of another study than the work folder.
    """
    try:
        packed = json.loads(gzip.decompress(path.read_bytes()))
        study = packed["study"]
        pieces = {
            work
            / f"seed_{piece['seed']:d}"
            / f"fold_{piece['fold']:d}"
            / f"{Path(piece['arm']).name}.json": piece
            for piece in packed["pieces"]
        }
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} holds no sessions of a study: {error}") from error
    there = work / "study.json"
    if there.exists() and json.loads(there.read_text()) != study:
        raise BadInputError(
            f"{path} holds sessions of another study than {work}: {study['dataset']}, {study['protocol']}"
        )
    missing = {place: piece for place, piece in pieces.items() if not place.exists()}
    work.mkdir(parents=True, exist_ok=True)
    write_json(study, there)
    for place, piece in missing.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(piece, place)
    return len(missing)


def rounded(value: Any) -> Any:
    """What a piece keeps: every number with as many digits as packed sessions have."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value
