"""Strategies: which of the waiting cases is asked about next, and why.

Adding one is a function `(view, rng) -> Pick` with the decorator `strategy`; the first line of its docstring is what
users read. `worst_first` is no strategy: it sorts predictions for people who review.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from overread.domain import BadInputError, Registry
from overread.queue import clasp
from overread.queue.cases import Cases, Pick, View
from overread.queue.reasons import doubt_reason, place, short_name
from overread.queue.shares import within_share
from overread.queue.space import BLOCK, FeatureSpace, distances, evenly_spaced, nearest_distances
from overread.uncertainty.agreement import SPECK_MM3

# Waiting cases that a case for a cold start should stand for.
REFERENCES = 400

V = TypeVar("V")
P = TypeVar("P")


@dataclass(frozen=True)
class Strategy(Generic[V, P]):
    """A named rule for the next question.

    Attributes:
        name: on the wire and in `/info`.
        description: one sentence for people.
        pick: `(view, rng)` to what it takes; raises BadInputError where nothing is waiting.
    """

    name: str
    description: str
    pick: Callable[[V, np.random.Generator], P]


STRATEGIES: Registry[Strategy[View, Pick]] = Registry("strategy")


def entered(
    registry: Registry[Strategy[V, P]],
    pick: Callable[[V, np.random.Generator], P],
    waiting: Callable[[V], int],
    none_waiting: str,
) -> Strategy[V, P]:
    """Enter a function under its own name, described by the first line of its docstring.

    Args:
        waiting: how much the strategy may choose from.
        none_waiting: ends the sentence of the error where that is nothing.
    """

    def checked(view: V, rng: np.random.Generator) -> P:
        if not waiting(view):
            raise BadInputError(f"{name} was asked to choose among no {none_waiting}")
        return pick(view, rng)

    name = pick.__name__
    return registry.add(name, Strategy(name, (pick.__doc__ or "").strip().split("\n")[0], checked))


def strategy(pick: Callable[[View, np.random.Generator], Pick]) -> Strategy[View, Pick]:
    """Decorator: enter a function into `STRATEGIES` under its own name."""
    return entered(
        STRATEGIES, pick, lambda view: len(view.waiting), "cases: all are labelled, on lease or resting"
    )


def worst_first(cases: Cases) -> np.ndarray:
    """The order in which to review predictions, worst first: indices by falling `quality`, unknown ones last.

    Pairwise Dice of the members ranks errors reliably (arXiv:2406.03323); it is a flag, and decides no question.
    """
    return np.argsort(-np.nan_to_num(cases.quality, nan=-np.inf), kind="stable")


@strategy
def most_uncertain(view: View, rng: np.random.Generator) -> Pick:
    """The case that the members doubt most, unlike those already asked.

    Doubt in and near the predicted structures times novelty (see `FeatureSpace.novelty`), so that a near duplicate
    of an asked case comes last. No patient gets more than twice an equal share of the questions. Cases that are not
    scored yet wait; where none is scored, `diverse` decides.
    """
    cases = view.waiting
    best = _highest_novel(view, cases.doubt)
    if best is None:
        return _unscored(view, rng)
    return Pick(cases.ids[best[0]], _doubt_reason(cases, best[0]), best[1])


@strategy
def pairwise_dice(view: View, rng: np.random.Generator) -> Pick:
    """The case whose outlines the members agree on least, unlike those already asked.

    1 - mean Dice of pairs of members, times novelty, with the same share per patient as `most_uncertain`. Entropy is
    high where a structure is large; this also finds small ones that everybody draws otherwise. Where it is not known,
    as for a single member, `most_uncertain` decides.
    """
    cases = view.waiting
    best = _highest_novel(view, cases.quality)
    if best is None:
        return STRATEGIES["most_uncertain"].pick(view, rng)
    return Pick(cases.ids[best[0]], f"members draw it differently, {place(cases.quality, best[0])}", best[1])


@strategy
def clasp_pe(view: View, rng: np.random.Generator) -> Pick:
    """Doubt class by class, with noise that fades as labelling goes on, and a share drawn at random.

    ClaSP PE (arXiv:2601.13677), translated from patches to cases; `queue/clasp.py` has its schedule:

    - the patch's mean is the mean in and near the predicted structures, `class_doubt` and `doubt`;
    - what is drawn at random comes from `foreground_random`;
    - patches that overlap become near duplicates of asked cases, and the cap per image becomes one per patient; both
      are passed over.
    """
    cases, asked = view.waiting, view.asked
    possible = _scored_within_cap(view, cases.doubt)
    if not len(possible):
        return _unscored(view, rng)
    seen_foreground = bool((asked.foreground_mm3 > SPECK_MM3).any())
    kind = clasp.kind_of_question(len(asked), len(cases.classes), seen_foreground)
    if kind == clasp.AT_RANDOM:
        return STRATEGIES["foreground_random"].pick(view, rng)
    score, about = cases.doubt, None
    if isinstance(kind, int):
        of_class = _scored_within_cap(view, cases.class_doubt[:, kind])
        if len(of_class):
            score, about, possible = cases.class_doubt[:, kind], kind, of_class
    noisy = clasp.noisy(score[possible], view.batch, view.progress, rng)
    order = possible[np.argsort(-noisy, kind="stable")]
    best = _first_novel(order, FeatureSpace.of(cases, asked))
    return Pick(cases.ids[best], _doubt_reason(cases, best, about), float(score[best]))


@strategy
def foreground_random(view: View, rng: np.random.Generator) -> Pick:
    """Any case in which the champion sees a structure; each class as often.

    First a class is drawn, then a case in which the champion predicts more than a speck of it. A case that is not
    scored yet counts as if it held every class: otherwise the draw would favour what is scored first. Where nothing is
    predicted anywhere, any case.
    """
    cases = view.waiting
    possible = np.isnan(cases.foreground_mm3) | (cases.foreground_mm3 > SPECK_MM3)
    columns = np.flatnonzero(possible.any(axis=0))
    if not len(columns):
        return Pick(_any(cases, rng), "drawn at random, no case shows a structure", None)
    column = int(rng.choice(columns))
    chosen = int(rng.choice(np.flatnonzero(possible[:, column])))
    if np.isnan(cases.foreground_mm3).all():
        return Pick(cases.ids[chosen], "drawn at random, nothing scored yet", None)
    return Pick(cases.ids[chosen], f"drawn at random among cases with {_name(cases, column)}", None)


@strategy
def diverse(view: View, rng: np.random.Generator) -> Pick:
    """The case whose image stands for most others that nothing asked resembles; needs no champion.

    Greedy facility location over the images' features: the case that shortens most the way from all cases to their
    nearest asked one. A lone odd image gains little, a copy of an asked one nothing. Where no image is known, any
    case.
    """
    cases = view.waiting
    space = FeatureSpace.of(cases, view.asked)
    within = _within_cap(view)[space.known]
    known = space.known[within] if within.any() else space.known
    if not len(known):
        return Pick(_any(cases, rng), "drawn at random, no image looked at yet", None)
    references = evenly_spaced(space.waiting[known], REFERENCES)
    if len(space.asked):
        so_far = nearest_distances(references, space.asked)
    else:
        so_far = np.full(len(references), np.float32(2 * distances(references, references).max()))
    gains = np.concatenate(
        [
            np.maximum(so_far - distances(space.waiting[known[at : at + BLOCK]], references), 0).mean(axis=1)
            for at in range(0, len(known), BLOCK)
        ]
    )
    best = int(gains.argmax())
    return Pick(cases.ids[known[best]], "its image stands for many that were not asked", float(gains[best]))


@strategy
def random(view: View, rng: np.random.Generator) -> Pick:
    """Any waiting case, all equally likely."""
    return Pick(_any(view.waiting, rng), "drawn at random", None)


@strategy
def first(view: View, rng: np.random.Generator) -> Pick:
    """The first waiting case in the order of the names."""
    return Pick(min(view.waiting.ids), "first by name", None)


def _unscored(view: View, rng: np.random.Generator) -> Pick:
    """What is asked while the champion has not spoken, or there is none."""
    pick = STRATEGIES["diverse"].pick(view, rng)
    return Pick(pick.case_id, f"nothing scored yet: {pick.reason}", pick.score)


def _any(cases: Cases, rng: np.random.Generator) -> str:
    return cases.ids[int(rng.integers(len(cases)))]


def _within_cap(view: View) -> np.ndarray:
    """Waiting cases whose patient has had less than twice an equal share of the questions, `(case,)` bool.

    All cases of the patients asked least where that would leave none.
    """
    waiting, asked = view.waiting.patients, view.asked.patients
    return within_share(waiting, Counter(asked), len(asked) + 1, len({*waiting, *asked}))


def _scored_within_cap(view: View, scores: np.ndarray) -> np.ndarray:
    """Indices of the scored cases, without those of patients above the cap where that leaves any."""
    scored = np.isfinite(scores)
    within = np.flatnonzero(scored & _within_cap(view))
    return within if len(within) else np.flatnonzero(scored)


def _highest_novel(view: View, scores: np.ndarray) -> tuple[int, float] | None:
    """The case with the highest score times novelty, and that; None where none is scored."""
    scored = _scored_within_cap(view, scores)
    if not len(scored):
        return None
    order = scored[np.argsort(-scores[scored], kind="stable")]
    space = FeatureSpace.of(view.waiting, view.asked)
    best, value = int(order[0]), -np.inf
    for at in range(0, len(order), BLOCK):
        block = order[at : at + BLOCK]
        if scores[block[0]] <= value:
            # Novelty is at most 1: nothing further down can win.
            break
        values = scores[block] * space.novelty(block)
        if values.max() > value:
            best, value = int(block[values.argmax()]), float(values.max())
    return best, value


def _first_novel(order: np.ndarray, space: FeatureSpace) -> int:
    """The first in order that is no near duplicate of an asked case; the first of all where every one is."""
    for at in range(0, len(order), BLOCK):
        block = order[at : at + BLOCK]
        # A case just at the radius of near duplicates has novelty 1 - 1/e.
        novel = np.flatnonzero(space.novelty(block) >= 1 - 1 / math.e)
        if len(novel):
            return int(block[novel[0]])
    return int(order[0])


def _doubt_reason(cases: Cases, row: int, about: int | None = None) -> str:
    return doubt_reason(cases.classes, cases.doubt, cases.class_doubt, row, about)


def _name(cases: Cases, column: int) -> str:
    return short_name(cases.classes[column])
