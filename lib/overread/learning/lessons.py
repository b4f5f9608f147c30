"""What each member of a challenger learns from, how often, and in whose colours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from overread.ensemble.lesson import Lesson, Pool, Restaining, Stain
from overread.ensemble.patch_store import PatchStore
from overread.ensemble.plan import Plan
from overread.learning.options import RetrainingOptions
from overread.learning.training_set import TrainingSet


def lessons_of(
    champion: Path,
    description: Mapping[str, Any],
    plan: Plan,
    cases: TrainingSet,
    keys: Mapping[str, str],
    store: PatchStore,
    options: RetrainingOptions,
) -> list[Lesson]:
    """A lesson a member.

    Args:
        champion: folder whose members a challenger goes on from.
        description: the champion's.
        plan: what it is trained with.
        cases: all there is to learn from.
        keys: by case id, its id in the store.
        store: has them all, prepared.
        options: how to retrain.

    Raises:
        BadInputError: a member has nothing to learn from.
    """
    lessons = []
    for member, file in enumerate(description["members"]):
        central, local = (cases.learnt_by(member, ids) for ids in (cases.central, cases.local))
        pools = [_pool(central, options.replay_share, keys)]
        pseudo = sorted(cases.unlabelled) if options.pseudo_share else []
        pseudo_share = options.pseudo_share if local else 1.0
        left = 1 - options.replay_share
        if pseudo:
            pools.append(_pool(pseudo, left * pseudo_share, keys))
            left *= 1 - pseudo_share
        share = left / max(1, len(local))
        for labelled, beside in _places(local, cases) if options.apart else [(local, [])]:
            pools.append(_pool([*labelled, *beside], share * len(labelled), keys))
        given = tuple(pool for pool in pools if pool.cases and pool.share > 0)
        lesson = Lesson(given, apart=options.apart)
        if options.start == "champion":
            lesson = replace(lesson, start=champion / file, rate_factor=options.rate_factor)
        if plan.is_rgb and central and local:
            like = _colours_to_show(central, local, cases, keys, store, options)
            if like:
                colours = Restaining(frozenset(keys[case] for case in central), like)
                lesson = replace(lesson, restaining=colours)
        lessons.append(lesson)
    return lessons


def _colours_to_show(
    central: Sequence[str],
    local: Sequence[str],
    cases: TrainingSet,
    keys: Mapping[str, str],
    store: PatchStore,
    options: RetrainingOptions,
) -> tuple[Pool | Stain, ...]:
    """Whose colours the central patches are given, and how many of them."""
    shown: list[Pool | Stain] = []
    if options.restained:
        shown.append(_pool(local, options.restained, keys))
    if options.lent and not options.apart:
        held = {case: store.classes(keys[case]) for case in (*central, *local)}
        places = [labelled for labelled, _ in _places(local, cases)]
        for labelled in places:
            lack, structure = lacking([held[case] for case in labelled], [held[case] for case in central])
            if not lack:
                continue
            # Colours also tell how much of a structure there is: what holds none of it is compared.
            here, there = (
                [case for case in group if structure not in held[case]] for group in (central, labelled)
            )
            colours = [
                torch.stack([store.colours(keys[case]) for case in group]).mean(dim=0)
                for group in (here or central, there)
            ]
            share = (1 - options.restained) * options.lent / len(places) * lack**2
            shown.append(Stain(share, *colours))
    return tuple(shown)


def lacking(local: Sequence[Collection[int]], central: Sequence[Collection[int]]) -> tuple[float, int]:
    """How much rarer a structure is among a place's cases than among central ones.

    Args:
        local, central: structures that each case holds.

    Returns:
        Of the structure that is missed most, 1 - its share of the local cases over that of the central ones, and which
        it is; 0 and 0 where none is rarer.
    """
    worst = 0.0, 0
    for structure in sorted({structure for held in central for structure in held}):
        here, there = (sum(structure in held for held in group) / len(group) for group in (local, central))
        if 1 - here / there > worst[0]:
            worst = 1 - here / there, structure
    return worst


def _pool(cases: Sequence[str], share: float, keys: Mapping[str, str]) -> Pool:
    return Pool(tuple(keys[case] for case in cases), share)


def _places(local: Sequence[str], cases: TrainingSet) -> list[tuple[list[str], list[str]]]:
    """Labelled cases centre by centre, with its unlabelled ones; those of which no centre is known are one more."""
    labelled: dict[str, list[str]] = {}
    for case in local:
        labelled.setdefault(cases.centres.get(case, ""), []).append(case)
    return [
        (labelled[centre], sorted(case for case in cases.unlabelled if cases.centres[case] == centre))
        for centre in sorted(labelled)
    ]
