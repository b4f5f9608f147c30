"""An interval over repetitions and cases covers what either would have been otherwise."""

import numpy as np
import pytest

from overread.domain import BadInputError
from overread.metrics.correlation import bootstrap_interval
from overread.metrics.crossed import crossed_interval


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_estimate_is_the_mean_of_what_was_judged():
    table = np.array([[0.2, 0.4, np.nan], [0.6, np.nan, 0.8]])
    interval = crossed_interval([table], generator=rng())
    assert interval.estimate == pytest.approx(0.5)
    assert interval.groups == 3
    assert 0.199 < interval.low < 0.5 < interval.high < 0.801


def test_of_one_repetition_it_is_the_bootstrap_over_cases():
    values = rng().normal(0, 1, 200)
    ours = crossed_interval([values[None]], generator=rng())
    usual = bootstrap_interval(values, lambda drawn: float(drawn.mean()), generator=rng())
    assert (ours.low, ours.high) == pytest.approx((usual.low, usual.high), abs=0.02)


def test_repetitions_that_differ_widen_it_and_equal_ones_do_not():
    cases = rng().normal(0, 0.01, 100)
    same = crossed_interval([np.stack([cases] * 5)], generator=rng())
    moved = crossed_interval([np.stack([cases + shift for shift in (-2, -1, 0, 1, 2)])], generator=rng())
    assert same.high - same.low < 0.01
    # The mean of five draws from -2 … 2 has a deviation of sqrt(2 / 5).
    assert moved.high - moved.low == pytest.approx(2 * 1.96 * (2 / 5) ** 0.5, rel=0.15)


def test_tables_are_drawn_together_so_that_a_difference_is_paired():
    hard = rng().normal(0, 5, (3, 50))
    interval = crossed_interval([hard + 0.1, hard], lambda means: means[0] - means[1], generator=rng())
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))


def test_cases_of_one_patient_are_drawn_together():
    patients = rng().normal(0, 1, 40)
    cases = np.repeat(patients, 5)[None]
    apart = crossed_interval([cases], generator=rng())
    together = crossed_interval([cases], generator=rng(), groups=np.repeat(np.arange(40), 5))
    by_patient = crossed_interval([patients[None]], generator=rng())
    assert (together.low, together.high) == pytest.approx((by_patient.low, by_patient.high))
    assert (together.groups, apart.groups) == (40, 200)
    assert apart.high - apart.low < (together.high - together.low) / 2
    with pytest.raises(BadInputError, match="200 cases need a group and a stratum each"):
        crossed_interval([cases], generator=rng(), groups=np.arange(40))


def test_strata_keep_their_share_of_the_cases():
    hospitals = np.repeat(["east", "west"], 20)
    table = np.where(hospitals == "east", 0.0, 1.0)[None]
    free = crossed_interval([table], generator=rng())
    kept = crossed_interval([table], generator=rng(), strata=hospitals)
    assert (kept.low, kept.high) == (0.5, 0.5)
    assert free.high - free.low > 0.2
    # A patient of both hospitals has nobody to be exchanged with.
    owners = np.arange(40)
    owners[20] = 0
    shared = crossed_interval([table], generator=rng(), groups=owners, strata=hospitals)
    assert (shared.low, shared.high) == (0.5, 0.5)


def test_it_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(8)
    hits = 0
    for _ in range(100):
        table = draw.normal(0, 1, (6, 1)) + draw.normal(0, 1, (1, 30)) + draw.normal(0, 1, (6, 30))
        interval = crossed_interval([table], generator=draw, resamples=300)
        hits += interval.low <= 0 <= interval.high
    # Six repetitions are few: percentile intervals fall a little short of 95 %.
    assert 82 <= hits <= 100


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([], "tables of repetitions by cases"),
        ([np.zeros(3)], "tables of repetitions by cases"),
        ([np.full((2, 2), np.nan)], "must be judged in all tables or in none"),
        ([np.zeros((1, 2)), np.array([[0, np.nan]])], "must be judged in all tables or in none"),
    ],
)
def test_what_is_no_table_is_refused(tables: list[np.ndarray], words: str):
    with pytest.raises(BadInputError, match=words):
        crossed_interval(tables, generator=rng())


def test_a_ratio_without_a_gap_is_refused():
    ones = np.ones((2, 2))
    with pytest.raises(BadInputError, match="not finite; are all values the same"):
        crossed_interval([ones, 0 * ones], lambda means: means[0] / means[1], generator=rng())
