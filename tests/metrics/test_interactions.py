"""How soon a person gets what they want."""

from __future__ import annotations

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.metrics.interactions import interactions_to, normalised_auc, summarise

SESSIONS = np.array(
    [
        [0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90],
        [0.50, 0.70, 0.80, 0.85, 0.85, 0.85, 0.85],
        [0.50, 0.85, 0.60, 0.60, 0.60, 0.60, 0.60],
        [0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70],
    ]
)


def test_the_first_turn_that_reaches_the_threshold_counts():
    assert interactions_to(SESSIONS, 0.8).tolist() == [0, 2, 1, 10]


def test_where_a_first_click_is_needed_one_is_the_fewest():
    assert interactions_to(SESSIONS, 0.8, first=1).tolist() == [1, 2, 1, 10]


def test_what_comes_later_than_the_last_that_counts_is_not_looked_at():
    assert interactions_to(SESSIONS, 0.85, most=2).tolist() == [0, 10, 1, 10]
    longer = np.column_stack([SESSIONS, np.ones(4)])
    assert interactions_to(longer, 0.99).tolist() == [10, 10, 10, 10]


def test_the_area_is_the_dice_that_does_not_change():
    assert normalised_auc(SESSIONS)[0] == pytest.approx(0.9)


def test_the_area_of_a_straight_line_is_its_middle():
    assert normalised_auc(SESSIONS)[3] == pytest.approx(0.4)
    assert normalised_auc(np.array([[0.0, 1.0]])).tolist() == [0.5]


def test_summary_holds_mean_failures_and_area():
    found = summarise(SESSIONS, 0.8)
    assert (found.threshold, found.mean, found.failed) == (0.8, 13 / 4, 1 / 4)
    assert found.auc == pytest.approx(normalised_auc(SESSIONS).mean())
    assert summarise(SESSIONS, 0.8, first=1, not_reached=7).mean == pytest.approx((1 + 2 + 1 + 7) / 4)


def test_percentages_are_refused():
    with pytest.raises(BadInputError, match="was it a percentage"):
        interactions_to(SESSIONS, 80)
    with pytest.raises(BadInputError, match=r"Dice lies in 0\.\.1"):
        interactions_to(SESSIONS * 100, 0.8)


def test_turns_that_are_not_there_are_refused():
    with pytest.raises(BadInputError, match=r"interactions 0\.\.6 \(else 10\) cannot be counted in 3 turns"):
        interactions_to(SESSIONS[:, :3], 0.8)
    with pytest.raises(BadInputError, match=r"\(else 6\)"):
        interactions_to(SESSIONS, 0.8, not_reached=6)


def test_what_is_no_table_of_dice_is_refused():
    with pytest.raises(BadInputError, match=r"\(case, turn\)"):
        normalised_auc(SESSIONS[0])
    with pytest.raises(BadInputError, match="never NaN"):
        normalised_auc(np.full((2, 7), np.nan))
    with pytest.raises(BadInputError, match="at least two turns"):
        normalised_auc(SESSIONS[:, :1])
