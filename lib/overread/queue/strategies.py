"""Strategies: which of the waiting cases is asked about next, and why.

Adding one is a function `(view, rng) -> Pick` with the decorator `strategy`; the first line of its docstring is what
users read. A strategy asks by `doubt`, never by `quality`: what the members draw worst is not what teaches them most.
`worst_first` sorts by quality, for people who review.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from overread.domain import BadInputError, Registry
from overread.queue.cases import Cases, Pick, View
from overread.queue.space import BLOCK, FeatureSpace, distances, evenly_spaced, nearest_distances

# Predicted structures below this are taken for specks: a ball of 2.7 mm.
SMALLEST_FOREGROUND_MM3 = 10.0
# ClaSP PE (arXiv:2601.13677): this share asks class by class, the rest whatever the class; one half while nothing with
# foreground has been asked.
STRATIFIED_SHARE = 0.66
STRATIFIED_SHARE_AT_FIRST = 0.5
# Of each batch, this share is drawn at random among cases with foreground.
RANDOM_SHARE = 0.2
# Inverse temperature of the noise at the end of the labelling: the ranking nearly decides alone.
LAST_BETA = 100.0
# Successive multiples of the golden ratio, modulo 1, fill [0, 1) evenly however many there are.
GOLDEN = (math.sqrt(5) - 1) / 2
# Waiting cases that a case for a cold start should stand for.
REFERENCES = 400
# A class's name in a reason is cut to this length.
LONGEST_NAME = 40
TINY = 1e-12


@dataclass(frozen=True)
class Strategy:
    """A named rule for the next case.

    Attributes:
        name: on the wire and in `/info`.
        description: one sentence for people.
        pick: `(view, rng)` to the case it takes; raises BadInputError where no case is waiting.
    """

    name: str
    description: str
    pick: Callable[[View, np.random.Generator], Pick]


STRATEGIES: Registry[Strategy] = Registry("strategy")


def strategy(pick: Callable[[View, np.random.Generator], Pick]) -> Strategy:
    """Decorator: enter a function into `STRATEGIES` under its own name."""

    def checked(view: View, rng: np.random.Generator) -> Pick:
        if not len(view.waiting):
            raise BadInputError(
                f"{name} was asked to choose among no cases: all are labelled, on lease or resting"
            )
        return pick(view, rng)

    name = pick.__name__
    return STRATEGIES.add(name, Strategy(name, (pick.__doc__ or "").strip().split("\n")[0], checked))


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
    scored = _scored_within_cap(view, cases.doubt)
    if not len(scored):
        return _unscored(view, rng)
    order = scored[np.argsort(-cases.doubt[scored], kind="stable")]
    space = FeatureSpace.of(cases, view.asked)
    best, value = int(order[0]), -np.inf
    for at in range(0, len(order), BLOCK):
        block = order[at : at + BLOCK]
        if cases.doubt[block[0]] <= value:
            # Novelty is at most 1: nothing further down can win.
            break
        values = cases.doubt[block] * space.novelty(block)
        if values.max() > value:
            best, value = int(block[values.argmax()]), float(values.max())
    return Pick(cases.ids[best], _doubt_reason(cases, best), value)


@strategy
def clasp_pe(view: View, rng: np.random.Generator) -> Pick:
    """Doubt class by class, with noise that fades as labelling goes on, and a share drawn at random.

    ClaSP PE (arXiv:2601.13677), translated from patches to cases. There, a batch of patches is chosen: 66 % class by
    class, by the patch's mean of predictive entropy times the class's probability, the rest by predictive entropy
    alone; both by log-score plus Gumbel(0, 1/beta) noise, beta growing exponentially to 100. Here one case is chosen
    at a time:

    - the patch's mean is the mean in and near the predicted structures, `class_doubt` and `doubt`;
    - which kind of question it is follows from how many were asked, so that the quotas hold over any stretch: 20 %
      drawn by `foreground_random`; of the rest, 66 % class by class (50 % while nothing with foreground has been
      asked), the classes in turn, in an order that is shuffled anew for each turn; the others by doubt alone;
    - beta = beta0 · (100 / beta0)^progress with beta0 = max(1, 40 / batch): with few picks a round, the paper's 1
      would be chance;
    - patches that overlap become near duplicates of asked cases, and the cap per image becomes one per patient; both
      are passed over.
    """
    cases, asked = view.waiting, view.asked
    possible = _scored_within_cap(view, cases.doubt)
    if not len(possible):
        return _unscored(view, rng)
    seen_foreground = bool((asked.foreground_mm3 > SMALLEST_FOREGROUND_MM3).any())
    share = STRATIFIED_SHARE if seen_foreground else STRATIFIED_SHARE_AT_FIRST
    stratified_up_to = RANDOM_SHARE + (1 - RANDOM_SHARE) * share
    places = np.modf(GOLDEN * np.arange(1, len(asked) + 2))[0]
    if places[-1] < RANDOM_SHARE:
        return STRATEGIES["foreground_random"].pick(view, rng)
    score, about = cases.doubt, None
    if places[-1] < stratified_up_to and cases.classes:
        before = int(((places[:-1] >= RANDOM_SHARE) & (places[:-1] < stratified_up_to)).sum())
        turn, position = divmod(before, len(cases.classes))
        turned = int(np.random.default_rng(turn).permutation(len(cases.classes))[position])
        of_class = _scored_within_cap(view, cases.class_doubt[:, turned])
        if len(of_class):
            score, about, possible = cases.class_doubt[:, turned], turned, of_class
    beta0 = max(1.0, 40 / max(view.batch, 1))
    beta = beta0 * (LAST_BETA / beta0) ** min(max(view.progress, 0.0), 1.0)
    noisy = np.log(np.maximum(score[possible], TINY)) + rng.gumbel(0, 1 / beta, len(possible))
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
    possible = np.isnan(cases.foreground_mm3) | (cases.foreground_mm3 > SMALLEST_FOREGROUND_MM3)
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
    counts = Counter(asked)
    cap = math.ceil(2 * (len(asked) + 1) / len({*waiting, *asked}))
    had = np.array([counts[patient] for patient in waiting])
    return had < max(cap, int(had.min()) + 1)


def _scored_within_cap(view: View, scores: np.ndarray) -> np.ndarray:
    """Indices of the scored cases, without those of patients above the cap where that leaves any."""
    scored = np.isfinite(scores)
    within = np.flatnonzero(scored & _within_cap(view))
    return within if len(within) else np.flatnonzero(scored)


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
    """`members unsure about tumour, top 3 %`: of the class asked about, or else the one that stands out most."""
    scores, subject = cases.doubt, ""
    if about is not None:
        scores, subject = cases.class_doubt[:, about], f" about {_name(cases, about)}"
    elif np.isfinite(cases.class_doubt[row]).any():
        with np.errstate(invalid="ignore"):
            beaten = (cases.class_doubt < cases.class_doubt[row]).sum(axis=0)
        # Of classes that stand out alike, the one with more doubt.
        own = np.nan_to_num(cases.class_doubt[row], nan=-1.0)
        subject = f" about {_name(cases, int(np.lexsort((own, beaten))[-1]))}"
    scored = int(np.isfinite(scores).sum())
    with np.errstate(invalid="ignore"):
        rank = int((scores > scores[row]).sum()) + 1
    place = f"top {math.ceil(100 * rank / scored)} %" if scored >= 20 else f"no. {rank} of {scored}"
    return f"members unsure{subject}, {place}"


def _name(cases: Cases, column: int) -> str:
    name = cases.classes[column]
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
