"""When to stop asking: how much the next label would still correct."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import t as student

from overread.state.labels import ACCEPTED, APPROVED, LabelRow

# Fewer corrections than this say nothing.
FEWEST_LABELS = 10
# Dice that a reader would hardly notice, and below what readers differ by.
SMALL_CORRECTION = 0.02
# One-sided confidence of the bound that must be below `SMALL_CORRECTION`.
CONFIDENCE = 0.9
# Each further champion back, a label counts this much.
FADING = 0.5
# What readers are told then.
CHANGES_LITTLE = "further labels are expected to change little"
# The prediction never knows better than this share of a Dice: five equal corrections are no certainty.
LEAST_SPREAD = 0.005


class Waiting(Protocol):
    """What could be asked next.

    Attributes:
        doubt, quality: `(case,)`, NaN where not known.
    """

    @property
    def doubt(self) -> np.ndarray:
        """See above."""
        ...

    @property
    def quality(self) -> np.ndarray:
        """See above."""
        ...


@dataclass(frozen=True)
class StopAdvice:
    """Whether another label is worth its time.

    Attributes:
        expected_correction: 1 - Dice between proposal and accepted label, expected of the best waiting case.
        because: the sentence for people.
        stop: even the best waiting case is unlikely to bring more than `SMALL_CORRECTION`.
    """

    expected_correction: float
    because: str
    stop: bool


def expected_gain(
    labels: Sequence[LabelRow],
    waiting: Waiting,
    scores: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> StopAdvice | None:
    """What the next label is expected to correct, learnt from what the accepted ones have corrected.

    A straight line from the case's score to the correction, by weighted least squares, rising or flat: the labels
    of the latest champion count fully, those of the one before it half, and so on. Labels from strategy and control arm
    alike serve, as the score by which they were chosen is the line's argument. The score is `quality` where it is
    known of enough labels, else `doubt`; where neither is, the mean correction of the control arm's labels, or of
    all. Of several labels of a case, the newest counts.

    Args:
        labels: of one recipe.
        waiting: unlabelled cases with the current champion's scores.
        scores: `(doubt, quality)` of labelled cases by `(champion, case)`: what the champion that proposed had said.

    Returns:
        None while fewer than `FEWEST_LABELS` proposals were corrected, or no waiting case is scored.
    """
    proposed = _newest_of_each_case(labels)
    if len(proposed) < FEWEST_LABELS or not np.isfinite(waiting.doubt).any():
        return None
    correction = np.array([1 - row.dice_to_proposal for row in proposed if row.dice_to_proposal is not None])
    weight = _weights(proposed)
    said = np.array([(scores or {}).get((row.champion, row.case_id), (np.nan, np.nan)) for row in proposed])
    for values, column in ((waiting.quality, 1), (waiting.doubt, 0)):
        known = np.isfinite(said[:, column])
        if known.sum() >= FEWEST_LABELS and np.isfinite(values).any():
            at = values[np.isfinite(values)]
            expected, upper = _line(said[known, column], correction[known], weight[known], at)
            used = int(known.sum())
            break
    else:
        control = np.array([row.arm == "control" for row in proposed])
        chosen = control if control.sum() >= FEWEST_LABELS else np.ones(len(proposed), dtype=bool)
        expected, upper = _line(np.zeros(chosen.sum()), correction[chosen], weight[chosen], np.zeros(1))
        used = int(chosen.sum())
    best = int(upper.argmax())
    likely, at_most = (float(np.clip(value, 0, 1)) for value in (expected[best], upper[best]))
    stop = at_most < SMALL_CORRECTION
    because = (
        f"{used} accepted labels corrected {_percent(correction.mean())} of the proposals' Dice on average; of the "
        f"best waiting case {_percent(likely)} is expected, {_percent(at_most)} at most: "
        + ("below" if stop else "not yet below")
        + f" {_percent(SMALL_CORRECTION)}"
    )
    return StopAdvice(likely, because, stop)


def _newest_of_each_case(labels: Sequence[LabelRow]) -> list[LabelRow]:
    """Labels in use that answered a proposal, one a case, oldest first."""
    newest: dict[str, LabelRow] = {}
    for row in sorted(labels, key=lambda row: row.submitted_at):
        if row.status in (ACCEPTED, APPROVED) and row.champion and row.dice_to_proposal is not None:
            newest[row.case_id] = row
    return sorted(newest.values(), key=lambda row: row.submitted_at)


def _weights(labels: Sequence[LabelRow]) -> np.ndarray:
    """1 for the champion that proposed last, `FADING` for the one before, and so on."""
    champions = list(dict.fromkeys(row.champion for row in reversed(labels)))
    return np.array([FADING ** champions.index(row.champion) for row in labels])


def _line(x: np.ndarray, y: np.ndarray, weight: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected y at `at` and its upper confidence bound, by weighted least squares with a slope of at least 0.

    Beyond the x that were seen, the line goes on and the bound opens.
    """
    share = weight / weight.sum()
    # As many equally weighted labels would say as much (Kish).
    count = 1 / float((share**2).sum())
    x_mean, y_mean = float(share @ x), float(share @ y)
    variance = float(share @ (x - x_mean) ** 2)
    slope = max(float(share @ ((x - x_mean) * (y - y_mean))) / variance, 0.0) if variance > 0 else 0.0
    freedom = max(count - (2 if variance > 0 else 1), 1.0)
    residual = float(share @ (y - y_mean - slope * (x - x_mean)) ** 2) * count / freedom
    spread = max(math.sqrt(residual), LEAST_SPREAD)
    leverage = (at - x_mean) ** 2 / variance if variance > 0 else np.zeros(len(at))
    expected = y_mean + slope * (at - x_mean)
    return expected, expected + student.ppf(CONFIDENCE, freedom) * spread * np.sqrt((1 + leverage) / count)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
