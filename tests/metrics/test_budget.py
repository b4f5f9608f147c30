"""What labels buy, on paper."""

import math

import pytest

from overread.domain import BadInputError
from overread.metrics.budget import area_under_budget_curve, share_of_gap


def test_the_area_is_the_mean_on_the_way():
    assert area_under_budget_curve([0, 5, 10], [0.8, 0.8, 0.8]) == pytest.approx(0.8)
    # Trapezoids of (0.2 + 0.6) / 2 over 5 and (0.6 + 0.8) / 2 over 10, of 15.
    assert area_under_budget_curve([0, 5, 15], [0.2, 0.6, 0.8]) == pytest.approx((0.4 * 5 + 0.7 * 10) / 15)


def test_the_unit_of_the_budget_does_not_matter():
    values = [0.2, 0.6, 0.8]
    in_patches = area_under_budget_curve([0, 5, 15], values)
    assert area_under_budget_curve([3, 3.5, 4.5], values) == pytest.approx(in_patches)


def test_it_ends_where_it_is_told_to():
    # Up to 10 the curve reaches 0.7, halfway between 0.6 and 0.8.
    expected = (0.4 * 5 + 0.65 * 5) / 10
    assert area_under_budget_curve([0, 5, 15], [0.2, 0.6, 0.8], up_to=10) == pytest.approx(expected)
    assert area_under_budget_curve([2, 5], [0.2, 0.6], up_to=1) == 0.2


def test_one_budget_is_its_value():
    assert area_under_budget_curve([7], [0.5]) == 0.5


@pytest.mark.parametrize(("budgets", "values"), [([], []), ([0, 5], [1]), ([0, 0], [1, 1]), ([5, 0], [1, 1])])
def test_what_is_no_curve_is_refused(budgets: list[float], values: list[float]):
    with pytest.raises(BadInputError, match="budgets that ascend and a value for each"):
        area_under_budget_curve(budgets, values)


def test_the_share_of_a_gap():
    assert share_of_gap(0.7, 0.5, 0.9) == pytest.approx(0.5)
    assert share_of_gap(0.4, 0.5, 0.9) == pytest.approx(-0.25)
    assert share_of_gap(1.0, 0.5, 0.9) == pytest.approx(1.25)
    assert math.isnan(share_of_gap(0.5, 0.5, 0.5))
