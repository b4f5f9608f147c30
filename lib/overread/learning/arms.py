"""Does asking by doubt beat chance here? What a place's own labels say, the control arm beside the strategy.

What a label corrected is 1 - Dice between the champion's proposal and what the reader accepted. A strategy is worth its
name where the cases that it picks need more correction than cases drawn at random, label by label and minute by
minute. (That a correction also teaches more is not shown by this; the simulation measures it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from overread.metrics.correlation import Interval, bootstrap_interval, bootstrap_mean
from overread.state.labels import ACCEPTED, APPROVED, LabelRow
from overread.state.servings import CONTROL, STRATEGY

# Fewer patients in an arm say nothing about it.
FEWEST_PATIENTS = 5


@dataclass(frozen=True)
class Arm:
    """The labels of one arm.

    Attributes:
        name: `strategy` or `control`.
        labels, patients: how many.
        correction: mean of 1 - Dice to the proposal; None with fewer than `FEWEST_PATIENTS`.
        minutes: median from serving to submitting; None where it is not known.
    """

    name: str
    labels: int
    patients: int
    correction: Interval | None
    minutes: float | None


@dataclass(frozen=True)
class ArmsComparison:
    """Strategy against control.

    Attributes:
        strategy, control: the arms.
        difference: of the mean corrections, strategy minus control; None while an arm is too small.
        verdict: in words.
    """

    strategy: Arm
    control: Arm
    difference: Interval | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def compare_arms(labels: Sequence[LabelRow], seed: int = 0) -> ArmsComparison:
    """Compare what the labels of both arms corrected; bootstrap over patients.

    Args:
        labels: of one recipe; of several labels of a case by one rater, the newest counts. Labels without a proposal,
            of cases that were opened by hand, or turned down later are left out.
    """
    newest: dict[tuple[str, str], LabelRow] = {}
    for row in sorted(labels, key=lambda row: row.submitted_at):
        if row.status in (ACCEPTED, APPROVED) and row.dice_to_proposal is not None:
            newest[row.case_id, row.rater] = row
    rows = {arm: [row for row in newest.values() if row.arm == arm] for arm in (STRATEGY, CONTROL)}
    strategy, control = (_arm(arm, found, seed) for arm, found in rows.items())
    if strategy.correction is None or control.correction is None:
        verdict = (
            f"too early to tell: {_patients(strategy)} asked by the strategy and {_patients(control)} drawn at random "
            f"were corrected, {FEWEST_PATIENTS} of each are needed"
        )
        return ArmsComparison(strategy, control, None, verdict)
    both = [*rows[STRATEGY], *rows[CONTROL]]
    values = np.array([[_correction(row), row.arm == STRATEGY] for row in both], dtype=float)
    difference = bootstrap_interval(
        values,
        _difference,
        generator=np.random.default_rng(seed),
        groups=np.array([row.patient for row in both]),
    )
    if difference.low > 0:
        found = "asking by the strategy beats chance: its cases needed more correction"
    elif difference.high < 0:
        found = "chance beats the strategy: the cases drawn at random needed more correction"
    else:
        found = "no difference is shown between the strategy's cases and those drawn at random"
    verdict = (
        f"{found} ({100 * strategy.correction.estimate:.1f} % against {100 * control.correction.estimate:.1f} %, "
        f"difference {100 * difference.estimate:+.1f} points, 95 % interval {100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f})"
    )
    return ArmsComparison(strategy, control, difference, verdict)


def _arm(name: str, rows: Sequence[LabelRow], seed: int) -> Arm:
    patients = np.array([row.patient for row in rows])
    count = len(set(patients.tolist()))
    correction = None
    if count >= FEWEST_PATIENTS:
        correction = bootstrap_mean(
            np.array([_correction(row) for row in rows]),
            generator=np.random.default_rng(seed),
            groups=patients,
        )
    times = [row.took_s / 60 for row in rows if row.took_s is not None]
    return Arm(name, len(rows), count, correction, float(np.median(times)) if times else None)


def _difference(rows: np.ndarray) -> float:
    """NaN where a resample misses an arm: such resamples are left out."""
    by_strategy = rows[:, 1] == 1
    if by_strategy.all() or not by_strategy.any():
        return float("nan")
    return float(rows[by_strategy, 0].mean() - rows[~by_strategy, 0].mean())


def _correction(row: LabelRow) -> float:
    """NaN where nothing was proposed."""
    return 1 - (float("nan") if row.dice_to_proposal is None else row.dice_to_proposal)


def _patients(arm: Arm) -> str:
    return "1 patient" if arm.patients == 1 else f"{arm.patients} patients"
