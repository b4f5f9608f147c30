"""The schedule of ClaSP PE (arXiv:2601.13677): what kind of question comes next, and how much noise it has.

There, a batch of patches is chosen: 66 % class by class, by the patch's mean of predictive entropy times the class's
probability, the rest by predictive entropy alone; both by log-score plus Gumbel(0, 1/beta) noise, beta growing
exponentially to 100. Here one question is asked at a time, and its kind follows from how many were asked.
"""

from __future__ import annotations

import math

import numpy as np

# This share asks class by class, the rest whatever the class; one half while nothing with foreground has been asked.
STRATIFIED_SHARE = 0.66
STRATIFIED_SHARE_AT_FIRST = 0.5
# Of each batch, this share is drawn at random among what shows foreground.
RANDOM_SHARE = 0.2
# Inverse temperature of the noise at the end of the labelling: the ranking nearly decides alone.
LAST_BETA = 100.0
# Successive multiples of the golden ratio, modulo 1, fill [0, 1) evenly however many there are.
GOLDEN = (math.sqrt(5) - 1) / 2
TINY = 1e-12

# The kinds of question beside a class's column.
AT_RANDOM, ANY_CLASS = "at random", "any class"


def kind_of_question(asked: int, classes: int, seen_foreground: bool) -> str | int:
    """What the question after `asked` others is about: a class's column, `ANY_CLASS` or `AT_RANDOM`.

    The quotas hold over any stretch; the classes come in turn, in an order that is shuffled anew for each turn.
    """
    share = STRATIFIED_SHARE if seen_foreground else STRATIFIED_SHARE_AT_FIRST
    stratified_up_to = RANDOM_SHARE + (1 - RANDOM_SHARE) * share
    places = np.modf(GOLDEN * np.arange(1, asked + 2))[0]
    if places[-1] < RANDOM_SHARE:
        return AT_RANDOM
    if places[-1] >= stratified_up_to or not classes:
        return ANY_CLASS
    before = int(((places[:-1] >= RANDOM_SHARE) & (places[:-1] < stratified_up_to)).sum())
    turn, position = divmod(before, classes)
    return int(np.random.default_rng(turn).permutation(classes)[position])


def noisy(scores: np.ndarray, batch: int, progress: float, rng: np.random.Generator) -> np.ndarray:
    """Log-scores with Gumbel noise that fades as the labelling goes on.

    beta = beta0 · (100 / beta0)^progress with beta0 = max(1, 40 / batch): with few picks a round, the paper's 1 would
    be chance.
    """
    return np.log(np.maximum(scores, TINY)) + rng.gumbel(0, 1 / _beta(batch, progress), len(scores))


def drawn(scores: np.ndarray, batch: int, progress: float, rng: np.random.Generator) -> int:
    """Where `noisy` would be highest: by the same law, with one random number instead of one a score.

    The largest of log-scores with Gumbel(0, 1/beta) noise is a draw with chances in proportion to score^beta.
    """
    chances = (scores / max(float(scores.max()), TINY)).clip(TINY, None) ** _beta(batch, progress)
    upto = chances.cumsum(dtype=np.float64)
    return min(int(np.searchsorted(upto, rng.random() * upto[-1], side="right")), len(scores) - 1)


def _beta(batch: int, progress: float) -> float:
    beta0 = max(1.0, 40 / max(batch, 1))
    return beta0 * (LAST_BETA / beta0) ** min(max(progress, 0.0), 1.0)
