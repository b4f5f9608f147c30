"""What the pieces of a study wrote down, put together for the report: `results.json`, one of each set."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from overread.domain import BadInputError
from overread.studies.uga.bench import write_whole
from overread.studies.uga.elsewhere import put_together, read_files, with_arms
from overread.studies.uga.protocol import ALL, NONE, in_order
from overread.studies.uga.sets import StudySet
from overread.studies.uga.study import Job, finished, open_set

RESULTS = "results.json"
PARTS = ("rows", "picks", "patches", "doubt")


def gather(job: Job, name: str, command: str, only: Collection[str] = ()) -> dict[str, Any] | None:
    """The results of all pieces of a set that are done; None where nothing is.

    Args:
        command: that makes them.
        only: these arms, beside the one without labels; all that are done where none is named.
    """
    pieces = [json.loads(path.read_text()) for path in finished(job, name)]
    pieces = [piece for piece in pieces if not only or piece["arm"] in {NONE, *only}]
    if not pieces:
        return None
    study_set = open_set(job, name)
    found: dict[str, Any] = {"study": _facts(job, study_set, pieces, command)}
    for part in PARTS:
        found[part] = list(_rows(pieces, part))
    found["gate"] = [
        {"seed": piece["seed"], "arm": piece["arm"], "budget": one["budget"], **one["gate"]}
        for piece in pieces
        for one in piece["rounds"]
        if one["gate"]
    ]
    return found


def write_results(
    job: Job,
    out: Path,
    command: str,
    elsewhere: Iterable[Path] = (),
    only: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Write `<out>/<set>/results.json` of every set of which something is done, and return them.

    Args:
        elsewhere: results of further pieces of the same study, which count as done.
        only: see `gather`.

    Raises:
        BadInputError: results from elsewhere are of another study or another set.
    """
    further = read_files(elsewhere)
    several = []
    for name in job.sets:
        here = gather(job, name, command, only)
        called = name if here is None else here["study"]["set"]
        mine = [results for results in further if results["study"]["set"] == called]
        further = [results for results in further if results["study"]["set"] != called]
        if there := [*([] if here is None else [here]), *mine]:
            together = put_together(there)
            several.append(with_arms(together, {NONE, *only}) if only else together)
            write_whole(json.dumps(several[-1], allow_nan=False) + "\n", out / name / RESULTS)
    if further:
        raise BadInputError(
            f"results from elsewhere are of {further[0]['study']['set']}, and told is {', '.join(job.sets)}"
        )
    return several


def _facts(job: Job, study_set: StudySet, pieces: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    # Pieces that an earlier version did were not timed.
    seconds: list[float] = [piece["seconds"] for piece in pieces if piece.get("seconds") is not None]
    return {
        "set": study_set.name,
        "preset": job.protocol.preset,
        "protocol": job.protocol.of_axes(study_set.axes).key(),
        "budgets": [0, *job.protocol.budgets],
        "arms": in_order({piece["arm"] for piece in pieces}),
        "seeds": sorted({piece["seed"] for piece in pieces}),
        "central": study_set.central,
        "domains": [study_set.central, *study_set.local_domains],
        "patch_px": study_set.patch_px,
        "um_per_px": study_set.um_per_px,
        "command": command,
        "seconds": round(sum(seconds), 1) if len(seconds) == len(pieces) else None,
    }


def _rows(pieces: Sequence[dict[str, Any]], part: str) -> Iterator[dict[str, Any]]:
    for piece in pieces:
        for one in piece["rounds"]:
            # What all labels cost is no pick of a patch.
            if part == "picks" and piece["arm"] == ALL:
                continue
            who = {"seed": piece["seed"]}
            if part != "patches":
                who |= {"arm": piece["arm"], "budget": one["budget"]}
            yield from ({**who, **row} for row in one.get(part, ()))
