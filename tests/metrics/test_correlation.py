"""Rank correlations are exact, and intervals honour that images of one patient are not independent."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from overread.domain import BadInputError
from overread.metrics.correlation import (
    Interval,
    bootstrap_interval,
    bootstrap_mean,
    spearman,
    spearman_interval,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_any_rising_relation_is_one_and_any_falling_minus_one():
    x = np.array([1.0, 5.0, 2.0, 9.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)


def test_known_answer_with_one_exchange():
    # Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8).
    assert spearman(np.array([1, 2, 3]), np.array([1, 3, 2])) == pytest.approx(0.5)


def test_ties_agree_with_scipy():
    a, b = seeded().integers(0, 5, (2, 50))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 1, 1], [1, 2, 3]),
        ([1, 2], [1, 2, 3]),
        ([], []),
        ([1, np.nan, 2], [1, 2, 3]),
        ([[1, 2]], [[1, 2]]),
    ],
)
def test_refuses_what_has_no_order(first, second):
    with pytest.raises(BadInputError, match="two lists of equal length that are not constant"):
        spearman(np.array(first, dtype=float), np.array(second, dtype=float))


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = seeded().normal(10, 2, 400)
    interval = bootstrap_interval(values, np.mean, generator=seeded(1))
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.estimate == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert interval.groups == 400


def test_copies_of_a_patients_image_do_not_make_the_interval_narrower():
    values = seeded().normal(0, 1, 30)
    patients = np.arange(30)
    plain = bootstrap_interval(values, np.mean, generator=seeded(1))
    copied = bootstrap_interval(
        np.repeat(values, 9), np.mean, groups=np.repeat(patients, 9), generator=seeded(1)
    )
    naive = bootstrap_interval(np.repeat(values, 9), np.mean, generator=seeded(1))
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))
    assert copied.groups == 30
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_groups_may_be_names_in_any_order():
    values = np.array([1.0, 2.0, 3.0])
    interval = bootstrap_interval(
        values, np.max, groups=np.array(["b", "a", "b"]), generator=seeded(), resamples=200
    )
    # Drawn are {b b}, {a b} or {a a}: the maximum is 3 or 2, never 1.
    assert (interval.low, interval.high, interval.groups) == (2.0, 3.0, 2)


def test_the_same_generator_gives_the_same_interval():
    values = seeded().normal(0, 1, 40)
    first, second = (bootstrap_interval(values, np.median, generator=seeded(7)) for _ in range(2))
    assert first == second


def test_a_wider_level_is_a_wider_interval():
    values = seeded().normal(0, 1, 60)
    narrow, wide = (bootstrap_interval(values, np.mean, generator=seeded(), level=q) for q in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_correlation_of_score_and_dice_has_an_interval_around_it():
    rng = seeded()
    score = rng.random(80)
    dice = -score + rng.normal(0, 0.3, 80)
    interval = spearman_interval(
        score, dice, generator=seeded(1), groups=np.repeat(np.arange(40), 2), resamples=300
    )
    assert interval.estimate == pytest.approx(spearman(score, dice))
    assert -1 <= interval.low < interval.estimate < interval.high < 0


def test_resamples_without_an_order_are_left_out():
    # Two patients: half of the resamples hold one of them only, and one number has no rank correlation.
    interval = spearman_interval(np.array([1.0, 2.0]), np.array([5.0, 7.0]), generator=seeded(), resamples=50)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((1, 1, 1))


def test_an_interval_reads_well():
    assert str(Interval(0.81234, 0.7, 0.9, 0.95, 12)) == "0.812 [0.700, 0.900]"


def test_refuses_rows_without_groups():
    with pytest.raises(BadInputError, match="a bootstrap needs rows and one group for each"):
        bootstrap_interval(np.ones(3), np.mean, groups=np.ones(2), generator=seeded())
    with pytest.raises(BadInputError, match="a bootstrap needs rows and one group for each, got 0"):
        bootstrap_interval(np.ones(0), np.mean, generator=seeded())


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_refuses_levels_and_numbers_that_cannot_be(options):
    with pytest.raises(BadInputError, match=r"a bootstrap needs a level in \(0, 1\) and resamples"):
        bootstrap_interval(np.ones(3), np.mean, generator=seeded(), **options)


def test_refuses_a_statistic_that_is_no_number():
    with pytest.raises(BadInputError, match="the statistic is not finite"):
        bootstrap_interval(np.ones(3), lambda rows: float("nan"), generator=seeded())
    with pytest.raises(BadInputError, match="not constant"):
        spearman_interval(np.ones(3), np.arange(3.0), generator=seeded())


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("most", [1, 50, 2**20])
def test_a_mean_has_the_interval_that_any_statistic_has(
    monkeypatch: pytest.MonkeyPatch, count: int, most: int
):
    monkeypatch.setattr("overread.metrics.correlation.MOST_DRAWN", most)
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    patients = np.array([f"p{n}" for n in rng.integers(0, max(1, count // 2), count)])
    slow = bootstrap_interval(
        values,
        lambda rows: float(rows.mean()),
        generator=np.random.default_rng(5),
        groups=patients,
        level=0.8,
        resamples=333,
    )
    fast = bootstrap_mean(
        values, generator=np.random.default_rng(5), groups=patients, level=0.8, resamples=333
    )
    assert (fast.estimate, fast.low, fast.high) == pytest.approx(
        (slow.estimate, slow.low, slow.high), abs=1e-12
    )
    assert (fast.level, fast.groups) == (slow.level, slow.groups)


def test_a_mean_refuses_what_any_statistic_refuses():
    rng = np.random.default_rng(0)
    with pytest.raises(BadInputError, match="rows and one group for each"):
        bootstrap_mean(np.ones(3), generator=rng, groups=np.array([1, 2]))
    with pytest.raises(BadInputError, match=r"a level in \(0, 1\)"):
        bootstrap_mean(np.ones(3), generator=rng, level=1.0)
    with pytest.raises(BadInputError, match="not finite"):
        bootstrap_mean(np.array([1.0, np.nan]), generator=rng)
