"""Risk and coverage: doubt is worth as much as the errors that it hands over."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from overread.domain import BadInputError
from overread.metrics.selective import augrc, aurc, excess_aurc, risk_coverage


def auroc(doubt: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a wrong unit has more doubt than a right one, ties counted half (Mann-Whitney)."""
    positives = int(wrong.sum())
    ranks = rankdata(doubt)
    return float(
        (ranks[wrong].sum() - positives * (positives + 1) / 2) / (positives * (wrong.size - positives))
    )


def test_the_curve_on_paper():
    # Accepted in the order right, wrong, right, wrong.
    curve = risk_coverage(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.selective_risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.generalised_risk.tolist() == pytest.approx([0, 1 / 4, 1 / 4, 1 / 2])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # Trapezoids from (0, 0): (0 + 1/4)/2, 1/4, (1/4 + 1/2)/2, each a quarter wide.
    assert curve.augrc == pytest.approx((0 + 1 / 8 + 1 / 4 + 3 / 8) / 4)


def test_doubt_that_finds_all_errors_first_has_no_excess():
    wrong = np.array([False] * 90 + [True] * 10)
    doubt = np.linspace(0, 1, 100)
    assert augrc(doubt, wrong) == pytest.approx(0.1**2 / 2)
    assert excess_aurc(doubt, wrong) == pytest.approx(0)
    assert excess_aurc(-doubt, wrong) > 0.1


def test_doubt_that_says_nothing_leaves_the_mean_risk():
    risk = np.array([0.1, 0.5, 0.3])
    assert aurc(np.ones(3), risk) == pytest.approx(0.3)
    assert augrc(np.ones(3), risk) == pytest.approx(0.15)


def test_the_risk_of_a_case_is_one_minus_its_dice():
    # Best order: risks 0.1, 0.3 -> mean of 0.1 and 0.2; the wrong order: 0.3 and 0.2.
    assert aurc(np.array([1.0, 2.0]), np.array([0.1, 0.3])) == pytest.approx(0.15)
    assert aurc(np.array([2.0, 1.0]), np.array([0.1, 0.3])) == pytest.approx(0.25)
    assert excess_aurc(np.array([2.0, 1.0]), np.array([0.1, 0.3])) == pytest.approx(0.1)


units = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({wrong for _, wrong in pairs}) == 2
)


@settings(max_examples=100, deadline=None)
@given(units)
def test_augrc_is_what_the_paper_derives_from_auroc(pairs):
    doubt, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    e = wrong.mean()
    assert augrc(doubt, wrong) == pytest.approx((1 - auroc(doubt, wrong)) * e * (1 - e) + e**2 / 2)


@settings(max_examples=50, deadline=None)
@given(units, st.integers(0, 100))
def test_ties_give_the_mean_over_all_orders_hence_none_matters(pairs, seed):
    doubt, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    order = np.random.default_rng(seed).permutation(len(pairs))
    assert aurc(doubt[order], wrong[order]) == pytest.approx(aurc(doubt, wrong))
    assert augrc(np.exp(doubt), wrong) == pytest.approx(augrc(doubt, wrong))


def test_ties_are_the_mean_over_all_orders():
    risk = np.array([1.0, 0.0, 0.0])
    # The wrong one is taken first, second or third with equal chance.
    expected = np.mean([(1 + 1 / 2 + 1 / 3) / 3, (0 + 1 / 2 + 1 / 3) / 3, (0 + 0 + 1 / 3) / 3])
    assert aurc(np.zeros(3), risk) == pytest.approx(expected)


def test_a_million_voxels_of_any_shape_are_sorted_once():
    rng = np.random.default_rng(0)
    doubt = rng.random((100, 100, 100), dtype=np.float32)
    wrong = rng.random(doubt.shape) < doubt * 0.02
    # Errors grow linearly with doubt: the accepted share of them is coverage squared, its area a third.
    assert augrc(doubt, wrong) == pytest.approx(wrong.mean() / 3, rel=0.05)


def test_the_input_is_not_changed():
    doubt, risk = np.array([0.3, 0.1, 0.2]), np.array([1.0, 0.0, 0.5])
    risk_coverage(doubt, risk)
    assert doubt.tolist() == [0.3, 0.1, 0.2]
    assert risk.tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(("doubt", "risk"), [(np.zeros(2), np.zeros(3)), (np.zeros(0), np.zeros(0))])
def test_refuses_units_without_risk(doubt, risk):
    with pytest.raises(BadInputError, match="each unit needs a doubt and a risk"):
        aurc(doubt, risk)


@pytest.mark.parametrize(("doubt", "risk"), [(np.nan, 0.0), (0.0, np.inf), (0.0, -0.1)])
def test_refuses_what_is_no_risk(doubt, risk):
    with pytest.raises(BadInputError, match="doubt and risk must be finite, risk at least 0"):
        aurc(np.array([0.5, doubt]), np.array([0.5, risk]))
