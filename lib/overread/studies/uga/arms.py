"""The arms of one seed: who is asked about what, and what comes of it.

    <arm>/rounds/05/state/      database and accepted labels after the round
    <arm>/rounds/05/model/      what was trained from them
    <arm>/rounds/05/round.json  what was asked, what the gate said, what the judges say; with it the round is done
    <arm>/training/             prepared cases and members in training
    <arm>/unit.json             all rounds and the seconds that they took; with it the arm is done

A round works on a copy of the state that the round before left and takes its place in one step, so that whatever
kills it, the next start begins that round again from the same state.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

from overread.studies.uga.bench import RECIPE, Bench, Told, write_whole
from overread.studies.uga.firsts import take_over
from overread.studies.uga.judging import judge_cases, judge_doubt
from overread.studies.uga.looking import Looking, everywhere
from overread.studies.uga.patch_quality import patch_rows
from overread.studies.uga.places import AtPlaces
from overread.studies.uga.protocol import ADABN, ALL, HED, NONE, PSEUDO
from overread.studies.uga.rounds import Round, opened_database
from overread.studies.uga.self_taught import self_taught


def run_unit(bench: Bench, arm: str, told: Told) -> None:
    """Do what is not done yet of one arm; a first model that another protocol shares is taken over.

    Args:
        told: hears what is being done, and the share of it that is done.
    """
    finished = bench.folder / arm / "unit.json"
    if finished.exists():
        return
    if arm == NONE and (unit := take_over(bench)) is not None:
        write_whole(json.dumps(unit, allow_nan=False), finished)
        return
    began = time.monotonic()
    if arm == NONE:
        rounds = [_first_model(bench, told)]
    elif arm == HED:
        rounds = [_stained(bench, told)]
    elif arm == ADABN:
        rounds = [_adapted(bench, told)]
    elif arm == PSEUDO:
        rounds = [_self_taught(bench, told)]
    else:
        rounds = list(_rounds(bench, arm, told))
    unit = {"arm": arm, "seed": bench.seed, "rounds": rounds, "seconds": _seconds(rounds, began)}
    write_whole(json.dumps(unit, allow_nan=False), finished)
    shutil.rmtree(bench.folder / arm / "training", ignore_errors=True)


def _seconds(rounds: list[dict[str, Any]], began: float) -> float | None:
    """What all rounds took, whenever they were done; None where one of them was not timed.

    What was stopped counts from its last start. A round in which nobody is asked is the only one of its arm.
    """
    taken = [one.get("seconds") if one["budget"] else round(time.monotonic() - began, 1) for one in rounds]
    told = [seconds for seconds in taken if seconds is not None]
    return round(sum(told), 1) if len(told) == len(taken) else None


def _first_model(bench: Bench, told: Told) -> dict[str, Any]:
    """Train the first model, let it look at the pool, and judge it."""
    told("training the first model", 0.0)
    ensemble = bench.load(bench.train_first(RECIPE, bench.protocol.stain))
    patches: list[dict[str, Any]] = []
    for number, case in enumerate(bench.pool):
        look = bench.look(ensemble, case)
        patches += patch_rows(bench, case, look)
        look.maps.save(bench.maps_file(case))
        told("looking at the pool", (number + 1) / len(bench.pool))
    return _unasked(bench, everywhere(ensemble), list(bench.division.test), told) | {"patches": patches}


def _unasked(bench: Bench, at: Looking, domains: list[str], told: Told) -> dict[str, Any]:
    """The one round of an arm that asks nobody, judged on cases of these domains."""
    judges = [case for case in bench.judges if case.domain in domains]
    return {
        "budget": 0,
        "picks": [],
        "gate": None,
        "rows": judge_cases(bench, at, judges, lambda share: told("judging", share)),
        "doubt": judge_doubt(bench, at, domains),
    }


def _stained(bench: Bench, told: Told) -> dict[str, Any]:
    """The first model trained with strong stain augmentation, and no label from elsewhere."""
    told("training with stain augmentation", 0.0)
    ensemble = bench.load(bench.train_first(HED, bench.protocol.hed))
    return _unasked(bench, everywhere(ensemble), list(bench.division.test), told)


def _adapted(bench: Bench, told: Told) -> dict[str, Any]:
    """The first model with each place's own batch statistics, from pictures of the pool that nobody labelled."""
    at = AtPlaces(bench, bench.store.current(RECIPE), bench.folder / ADABN)
    return _unasked(bench, at, list(bench.division.pool), told)


def _self_taught(bench: Bench, told: Told) -> dict[str, Any]:
    """The first model, taught by what it says itself of the places, with their batch statistics."""
    ensemble = bench.load(self_taught(bench, told))
    return _unasked(bench, everywhere(ensemble), list(bench.division.test), told)


def _rounds(bench: Bench, arm: str, told: Told) -> Iterator[dict[str, Any]]:
    """The rounds of an arm that asks; those that are there are only read."""
    folder = bench.folder / arm
    budgets = bench.protocol.budgets[-1:] if arm == ALL else bench.protocol.budgets
    before, model = None, bench.store.current(RECIPE)
    if bench.protocol.self_taught and arm != ALL:
        model = self_taught(bench, told)
    for number, budget in enumerate(budgets, start=1):
        finished = folder / "rounds" / f"{budget:02d}"
        if not (finished / "round.json").exists():
            working = folder / "rounds" / ".working"
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir(parents=True)
            began = time.monotonic()
            if before is not None:
                shutil.copytree(before / "state", working / "state")
            with opened_database(working / "state") as database:
                done = Round(bench, arm, number, budget, model, database, working, told).run()
            done["seconds"] = round(time.monotonic() - began, 1)
            write_whole(json.dumps(done, allow_nan=False), working / "round.json")
            working.rename(finished)
        before, model = finished, finished / "model"
        yield json.loads((finished / "round.json").read_text())
