"""Pieces of a study that were done elsewhere: on another machine, or before, with only `results.json` kept of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.studies.uga.protocol import NONE, in_order

# What two files must have in common to be of one study.
ALIKE = ("set", "preset", "budgets", "central", "domains", "patch_px", "um_per_px")
PARTS = ("rows", "picks", "patches", "doubt", "gate")
# Numbers further apart than this come from another training.
SAME = 1e-6

Piece = tuple[int, str]


def read_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """`results.json` of one set each, gzipped or not.

    Raises:
        BadInputError: a file is no such thing; names it.
    """
    found = []
    for path in paths:
        try:
            content = path.read_bytes()
            text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            results = json.loads(text)
            if not (isinstance(results, dict) and results["study"]["set"] and results["rows"]):
                raise ValueError("it has no `study` or no `rows`")
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{path} is no results.json of a study: {error}") from error
        found.append(results)
    return found


def put_together(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Results of one set as one. A piece that is there twice is taken from the first.

    Raises:
        BadInputError: two of them are of different studies: of another protocol, or an arm of a seed that both did
            says something else (arms of one seed can only be compared where all began with one model).
    """
    return reduce(_joined, several)


def with_arms(results: dict[str, Any], arms: Container[str]) -> dict[str, Any]:
    """The results of some arms, as if no other had been done."""
    study = results["study"]
    if not all(arm in arms for arm in study["arms"]):
        # That was of all of them.
        study = study | {"seconds": None}
    kept = {part: [row for row in results.get(part, ()) if row.get("arm", NONE) in arms] for part in PARTS}
    return {"study": study | {"arms": [arm for arm in study["arms"] if arm in arms]}, **kept}


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    one, other = first["study"], second["study"]
    facts = (*ALIKE, *(["protocol"] if "protocol" in one and "protocol" in other else []))
    if differing := [fact for fact in facts if one[fact] != other[fact]]:
        fact = differing[0]
        raise BadInputError(
            f"two results of {one['set']} are not of one study: {fact} is {one[fact]!r} and {other[fact]!r}"
        )
    there, added = _pieces(first), _pieces(second)
    for seed, arm in sorted(there.keys() & added.keys()):
        if not _alike(there[seed, arm], added[seed, arm]):
            raise BadInputError(
                f"two results of {one['set']} are not of one study: they say different things of seed {seed}, {arm}"
            )
    # Patches are the first model's.
    joined = {
        part: [
            *first.get(part, ()),
            *(row for row in second.get(part, ()) if (row["seed"], row.get("arm", NONE)) not in there),
        ]
        for part in PARTS
    }
    study = {
        **one,
        "arms": in_order({*one["arms"], *other["arms"]}),
        "seeds": sorted({*one["seeds"], *other["seeds"]}),
        # What it took in all, nobody measured.
        "seconds": None,
    }
    return {"study": study, **joined}


def _pieces(results: Mapping[str, Any]) -> dict[Piece, dict[tuple[int, str], float | None]]:
    """Dice by budget and case of each arm of each seed."""
    found: dict[Piece, dict[tuple[int, str], float | None]] = {}
    for row in results["rows"]:
        found.setdefault((row["seed"], row["arm"]), {})[row["budget"], row["case"]] = row["dice"]
    return found


def _alike(one: Mapping[Any, float | None], other: Mapping[Any, float | None]) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [(one[key], other[key]) for key in one]
    return all(a == b if a is None or b is None else abs(a - b) <= SAME for a, b in pairs)
