"""What labels buy: quality against a budget, as one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from overread.domain import BadInputError


def area_under_budget_curve(
    budgets: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray, up_to: float | None = None
) -> float:
    """Area under a quality against the budget that it took (AUBC).

    Zhan et al. 2021 (IJCAI, comparative survey of pool-based active learning). By the trapezoid rule, divided by the
    range of budgets, so that it is the mean quality on the way, in the unit of the quality, whatever the budget is
    counted in: 0.8 where Dice is 0.8 at every budget. Of one budget it is the quality itself. Compare only areas over
    the same range.

    Args:
        budgets: ascending, each once.
        values: the quality at each.
        up_to: where the range ends, the quality there being interpolated; the last budget by default.

    Raises:
        BadInputError: no budget, not as many values, or budgets that do not ascend.
    """
    x, y = np.asarray(budgets, float), np.asarray(values, float)
    if x.ndim != 1 or x.shape != y.shape or x.size == 0 or not (np.diff(x) > 0).all():
        raise BadInputError(
            f"an area needs budgets that ascend and a value for each, got {x.tolist()} and {y.tolist()}"
        )
    end = float(x[-1] if up_to is None else up_to)
    if end <= x[0]:
        return float(y[0])
    inside = x < end
    xs, ys = np.append(x[inside], end), np.append(y[inside], np.interp(end, x, y))
    return float(trapezoid(ys, xs)) / (end - float(x[0]))


def share_of_gap(value: float, floor: float, ceiling: float) -> float:
    """Which part of the way from `floor` to `ceiling` a value has come: 0 at the floor, 1 at the ceiling.

    As active learning challenges scale their scores between a random and an ideal curve (Guyon et al. 2011, JMLR W&CP
    16:19): here between no labels and all labels. Below 0 it is worse than the floor, above 1 better than the ceiling;
    NaN where the ceiling is not above the floor.
    """
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")
