"""Pieces of a study that were done on several machines are told as one, if they are of one study."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from overread.domain import BadInputError
from overread.studies.uga.elsewhere import PARTS, put_together, read_files, with_arms
from overread.studies.uga.rows import read_results
from support.uga_results import study_of


def only(
    results: dict[str, Any], *, seeds: tuple[int, ...] = (), arms: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The pieces of some seeds and arms."""

    def wanted(row: dict[str, Any]) -> bool:
        return (not seeds or row["seed"] in seeds) and (not arms or row.get("arm", "none") in arms)

    study = results["study"]
    study = study | {
        "seeds": [seed for seed in study["seeds"] if not seeds or seed in seeds],
        "arms": [arm for arm in study["arms"] if not arms or arm in arms],
    }
    return {"study": study} | {part: [row for row in results.get(part, ()) if wanted(row)] for part in PARTS}


def pieces(results: dict[str, Any]) -> dict[str, list[str]]:
    """Every row of each part, in no order."""
    return {part: sorted(json.dumps(row, sort_keys=True) for row in results[part]) for part in PARTS}


def test_seeds_and_arms_of_several_machines_are_one_study():
    whole = study_of(seeds=(0, 1, 2), patches=4)
    arms = whole["study"]["arms"]
    parts = [
        only(whole, seeds=(0, 1)),
        only(whole, seeds=(2,), arms=("none", *arms[:3])),
        # The first model of the seed is there again.
        only(whole, seeds=(2,), arms=("none", *arms[3:])),
    ]
    joined = put_together(parts[:2])
    assert read_results(joined).complete_seeds == (0, 1)
    joined = put_together(parts)
    assert pieces(joined) == pieces(whole)
    assert set(joined["study"]["arms"]) == set(arms)
    assert read_results(joined).complete_seeds == (0, 1, 2)


def test_seeds_that_lack_an_arm_count_where_it_is_left_out():
    whole = study_of(seeds=(0, 1), patches=4)
    few = ("none", "all", "random")
    joined = put_together([only(whole, seeds=(0,)), only(whole, seeds=(1,), arms=few)])
    assert read_results(joined).complete_seeds == (0,)
    some = with_arms(joined, few)
    assert read_results(some).complete_seeds == (0, 1)
    assert pieces(some) == pieces(only(whole, arms=few))
    assert some["patches"], "they are the first model's"
    assert with_arms(whole, whole["study"]["arms"])["study"]["seconds"] == 5400
    assert with_arms(whole, few)["study"]["seconds"] is None


def test_what_is_of_another_study_is_refused():
    whole = study_of(seeds=(0, 1), patches=4)
    coarser = only(whole, seeds=(1,))
    coarser["study"]["um_per_px"] = 4.0
    with pytest.raises(BadInputError, match=r"not of one study: um_per_px is .* and 4\.0"):
        put_together([only(whole, seeds=(0,)), coarser])
    with pytest.raises(BadInputError, match="protocol is 'one' and 'other'"):
        put_together(
            [
                {**only(whole, seeds=(seed,)), "study": whole["study"] | {"protocol": name}}
                for seed, name in enumerate(("one", "other"))
            ]
        )
    # Another first model: what was made of it cannot be compared.
    other = json.loads(json.dumps(only(whole, seeds=(1,), arms=("none", "random"))))
    next(row for row in other["rows"] if row["arm"] == "none")["dice"] += 0.01
    with pytest.raises(BadInputError, match="different things of seed 1, none"):
        put_together([whole, other])


def test_files_gzipped_or_not(tmp_path: Path):
    whole = study_of(seeds=(0,), patches=4)
    plain, packed, broken, short = (
        tmp_path / name for name in ("r.json", "r.json.gz", "broken.gz", "short.json")
    )
    plain.write_text(json.dumps(whole))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_files([plain, packed]) == [json.loads(plain.read_text())] * 2
    broken.write_bytes(packed.read_bytes()[:50])
    short.write_text('{"study": {"set": "discs"}}')
    for wrong in (broken, short):
        with pytest.raises(BadInputError, match=f"{wrong.name} is no results.json of a study"):
            read_files([wrong])
