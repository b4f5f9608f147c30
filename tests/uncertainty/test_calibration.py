"""The temperature that validation cases ask for is found, and bands hold the errors they promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overread.domain import BadInputError
from overread.ensemble import ensemble, storage
from overread.uncertainty import (
    Calibration,
    DoubtBands,
    band_map,
    choose_bands,
    fit_temperature,
    measure_bands,
)


def bands_at(high: float, moderate: float) -> DoubtBands:
    return DoubtBands("variance", high, moderate, 0, 0, 0, 0, 0)


def case(doubt, wrong) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(doubt, dtype=np.float32), np.asarray(wrong, dtype=bool)


# --- temperature -------------------------------------------------------------------------------------------------


def labels_drawn_from(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """True classes that follow softmax(logits), logits `(class, voxel)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(logits.softmax(0).T, 1, generator=generator)[:, 0]


def test_known_answer_for_two_classes():
    # The network says log-odds 4 everywhere and is right in 3 of 4 voxels: log-odds log 3 fit, so T = 4 / log 3.
    logits = np.zeros((1, 2, 400))
    logits[:, 1] = 4.0
    labels = (np.arange(400) % 4 > 0).astype(np.uint8)
    assert fit_temperature(logits, labels) == pytest.approx(4 / math.log(3), rel=1e-3)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_the_logits_were_multiplied_with(true):
    honest = 2 * torch.randn(3, 20000, generator=torch.Generator().manual_seed(1))
    found = fit_temperature((true * honest)[None], labels_drawn_from(honest))
    assert found == pytest.approx(true, rel=0.05)


def test_the_order_of_members_and_their_number_of_copies_do_not_matter():
    logits = 5 * torch.randn(3, 3, 500, generator=torch.Generator().manual_seed(1))
    labels = labels_drawn_from(logits.mean(0) / 5)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(logits[[2, 0, 1]], labels) == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(logits.repeat(2, 1, 1), labels) == pytest.approx(expected, rel=1e-6)


def test_the_fit_is_to_the_mean_of_the_probabilities_not_of_the_logits():
    logits = 4 * torch.randn(4, 3, 3000, generator=torch.Generator().manual_seed(2))
    labels = labels_drawn_from(logits.mean(0))

    def loss(temperature: float) -> float:
        mean = (logits.double() / temperature).softmax(1).mean(0)
        return float(-mean.gather(0, labels[None]).log().mean())

    found = fit_temperature(logits, labels)
    grid = np.geomspace(0.05, 20, 400)
    assert loss(found) <= min(loss(t) for t in grid) + 1e-6


def test_is_the_same_every_time_and_changes_nothing():
    logits = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    labels = torch.arange(200) % 3
    before = logits.clone(), labels.clone()
    assert fit_temperature(logits, labels) == fit_temperature(logits, labels)
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])


def test_stays_within_bounds_for_members_that_are_always_right_or_always_wrong():
    logits = torch.zeros(1, 2, 10)
    logits[:, 0] = 3
    # The likelihood hardly changes once everything is right and certain.
    assert 0.05 <= fit_temperature(logits, torch.zeros(10, dtype=torch.int64)) < 0.2
    assert fit_temperature(logits, torch.ones(10, dtype=torch.int64)) == pytest.approx(20, rel=0.01)


def test_is_one_where_no_temperature_is_better():
    assert fit_temperature(torch.zeros(2, 3, 9), torch.arange(9) % 3) == 1.0


def test_huge_logits_do_not_overflow():
    logits = np.full((2, 2, 8), -1e6)
    logits[:, 0] = 1e6
    assert 0.05 <= fit_temperature(logits, np.array([0, 0, 0, 0, 0, 0, 0, 1])) <= 20


@pytest.mark.parametrize(("logits", "labels"), [((3, 10), (10,)), ((2, 3, 10), (9,)), ((2, 3, 0), (0,))])
def test_refuses_logits_and_labels_that_do_not_fit(logits, labels):
    with pytest.raises(BadInputError, match=r"logits \(member, class, voxel\) and labels \(voxel\)"):
        fit_temperature(np.zeros(logits), np.zeros(labels, dtype=int))


def test_refuses_logits_that_are_not_finite():
    with pytest.raises(BadInputError, match="logits hold values that are not finite"):
        fit_temperature(np.full((1, 2, 3), np.inf), np.zeros(3, dtype=int))


def test_refuses_labels_beyond_the_classes():
    with pytest.raises(BadInputError, match=r"labels hold 0\.\.2, expected 0\.\.1"):
        fit_temperature(np.zeros((1, 2, 3)), np.array([0, 1, 2]))


def test_refuses_labels_that_are_no_class_numbers():
    with pytest.raises(BadInputError, match="a temperature needs class numbers"):
        fit_temperature(np.zeros((1, 2, 3)), np.zeros(3))


# --- choice of bands ---------------------------------------------------------------------------------------------


def test_a_band_is_as_small_as_its_share_of_errors_allows():
    # 1000 voxels of falling doubt; wrong are the ten most doubtful but the 1st, and number 50.
    doubt = np.linspace(1, 0.001, 1000)
    wrong = np.zeros(1000)
    wrong[1:10] = wrong[50] = 1
    bands = choose_bands([case(doubt, wrong)], "variance")
    # 8 of 10 errors: voxels 0..8. 9.5 of 10 need number 50 as well: voxels 0..50, within a tenth of all.
    assert bands.high == np.float32(doubt[8])
    assert bands.moderate == np.float32(doubt[50])
    assert (bands.high_error_share, bands.high_voxel_share) == (0.8, 0.009)
    assert (bands.moderate_error_share, bands.moderate_voxel_share) == (1.0, 0.051)
    assert (bands.measure, bands.cases) == ("variance", 1)


def test_the_budget_of_voxels_caps_a_band():
    # Errors spread evenly over the 200 most doubtful of 1000 voxels.
    doubt = np.linspace(1, 0.001, 1000)
    wrong = np.arange(1000) < 200
    bands = choose_bands([case(doubt, wrong)], "variance")
    assert (bands.high_voxel_share, bands.high_error_share) == (0.04, 0.2)
    assert (bands.moderate_voxel_share, bands.moderate_error_share) == (0.1, 0.5)


def test_within_the_budget_no_voxel_is_spent_without_finding_an_error():
    # All errors that fit into the budget are among the first three voxels.
    wrong = np.zeros(1000)
    wrong[:3] = wrong[900:] = 1
    bands = choose_bands([case(np.linspace(1, 0.001, 1000), wrong)], "variance")
    assert bands.high_voxel_share == bands.moderate_voxel_share == 0.003


def test_equal_doubts_are_in_a_band_together():
    # 30 voxels at 0.9 (20 wrong), 30 at 0.5 (20 wrong), 940 below: 60 voxels would break the 4 % of `high`.
    doubt = np.concatenate([np.full(30, 0.9), np.full(30, 0.5), np.full(940, 0.1)])
    wrong = np.concatenate([np.arange(30) < 20, np.arange(30) < 20, np.zeros(940)])
    bands = choose_bands([case(doubt, wrong)], "variance")
    assert (bands.high_voxel_share, bands.high_error_share) == (0.03, 0.5)
    assert (bands.moderate_voxel_share, bands.moderate_error_share) == (0.06, 1.0)


def test_a_highest_value_that_fills_more_than_the_budget_is_in_no_band():
    doubt = np.where(np.arange(100) < 50, 0.4, 0.0)
    bands = choose_bands([case(doubt, np.arange(100) < 10)], "variation_ratio")
    assert bands.high_voxel_share == bands.moderate_voxel_share == 0
    assert bands.high == bands.moderate == np.nextafter(np.float32(0.4), np.float32(1))


def test_cases_are_pooled():
    # One error in the first case, nine in the second: the first case's must not weigh half.
    first = case(np.linspace(0.2, 0.1, 500), np.arange(500) == 0)
    second = case(np.linspace(1.0, 0.3, 500), np.arange(500) < 9)
    bands = choose_bands([first, second], "variance")
    assert bands.cases == 2
    assert (bands.high_error_share, bands.high_voxel_share) == (0.8, 0.008)
    assert (bands.moderate_error_share, bands.moderate_voxel_share) == (0.9, 0.009)


def test_without_errors_the_bands_show_the_most_doubtful_voxels():
    bands = choose_bands([case(np.linspace(1, 0.001, 1000), np.zeros(1000))], "variance")
    assert (bands.high_voxel_share, bands.moderate_voxel_share) == (0.04, 0.1)
    assert (bands.high_error_share, bands.moderate_error_share) == (0, 0)


@pytest.mark.parametrize("errors", [0, 5])
def test_without_doubt_any_doubt_at_all_is_high(errors):
    bands = choose_bands([case(np.zeros(100), np.arange(100) < errors)], "variance")
    assert 0 < bands.moderate == bands.high < 1e-30
    assert (bands.high_error_share, bands.high_voxel_share, bands.cases) == (0, 0, 1)


def test_errors_without_doubt_cannot_be_found():
    doubt = np.where(np.arange(100) < 3, 0.5, 0.0)
    bands = choose_bands([case(doubt, np.arange(100) >= 98)], "variance")
    assert bands.moderate == 0.5
    assert (bands.high_voxel_share, bands.high_error_share) == (0.03, 0)


doubts = st.lists(
    st.tuples(st.sampled_from([0.0, 1e-7, 0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=80
)


@settings(max_examples=150, deadline=None)
@given(doubts, st.sampled_from([(0.04, 0.1), (0.3, 0.3), (0.5, 1.0)]))
def test_no_smaller_band_within_the_budget_would_hold_the_promised_errors(voxels, budgets):
    doubt, wrong = case(*zip(*voxels, strict=True))
    bands = choose_bands([(doubt, wrong)], "variance", voxel_shares=budgets)
    assert 0 < bands.moderate <= bands.high
    errors = int(wrong.sum())
    candidates = [t for t in np.unique(doubt) if t > 0]
    chosen = ((bands.high, 0.8, budgets[0]), (bands.moderate, 0.95, budgets[1]))
    for threshold, error_share, voxel_share in chosen:
        inside = doubt >= threshold
        assert inside.mean() <= voxel_share + 1e-9
        fitting = [t for t in candidates if (doubt >= t).mean() <= voxel_share + 1e-9]
        reachable = max((wrong[doubt >= t].sum() for t in fitting), default=0)
        if reachable == 0:
            assert inside.sum() == max(((doubt >= t).sum() for t in fitting), default=0)
            continue
        goal = min(error_share * errors - 1e-9, reachable)
        assert wrong[inside].sum() >= goal
        assert all(wrong[doubt >= t].sum() < goal for t in fitting if t > threshold)


def test_the_order_of_voxels_and_their_shape_do_not_matter():
    rng = np.random.default_rng(0)
    doubt = rng.integers(0, 40, 4000).astype(np.float32)
    wrong = rng.random(4000) < doubt / 100
    order = rng.permutation(4000)
    expected = choose_bands([(doubt, wrong)], "variance")
    assert choose_bands([(doubt[order], wrong[order])], "variance") == expected
    assert choose_bands([(doubt.reshape(10, 20, 20), wrong.reshape(10, 20, 20))], "variance") == expected


def test_thresholds_can_be_measured_on_other_cases():
    bands = choose_bands([case(np.linspace(1, 0.001, 1000), np.arange(1000) < 10)], "variance")
    held_out = case([1.0, 1.0, 0.0, 0.0], [1, 0, 1, 1])
    measured = measure_bands(bands, [held_out, held_out])
    assert (measured.high, measured.moderate) == (bands.high, bands.moderate)
    assert (measured.high_error_share, measured.high_voxel_share) == (pytest.approx(1 / 3), 0.5)
    assert measured.cases == 2


def test_refuses_no_cases():
    for nothing in ([], [case([], [])]):
        with pytest.raises(BadInputError, match="bands of variance need at least one validation case"):
            choose_bands(nothing, "variance")


@pytest.mark.parametrize("wrong", [np.zeros(3, dtype=bool), np.zeros(4, dtype=int)])
def test_names_the_case_whose_truth_does_not_fit(wrong):
    with pytest.raises(BadInputError, match=r"validation case 1: doubt \(4,\) needs truth values"):
        choose_bands([case(np.zeros(4), np.zeros(4)), (np.zeros(4), wrong)], "variance")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_names_the_case_whose_doubt_is_no_doubt(bad):
    with pytest.raises(BadInputError, match="validation case 0: variance must be finite floats, at least 0"):
        choose_bands([case([bad, 0.5], [0, 1])], "variance")


@pytest.mark.parametrize("shares", [{"error_shares": (0.9, 0.8)}, {"voxel_shares": (0.0, 0.1)}])
def test_refuses_shares_that_fall_from_high_to_moderate(shares):
    with pytest.raises(BadInputError, match=r"bands need shares in \(0, 1\]"):
        choose_bands([case([0.5], [1])], "variance", **shares)


# --- bands of a map ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_voxel_at_the_threshold_is_in_the_band(kind):
    values = kind(np.array([[0.0, 0.1, 0.2], [0.3, 0.5, 0.9]], dtype=np.float32))
    band = band_map(values, bands_at(high=0.5, moderate=float(np.float32(0.2))))
    assert band.tolist() == [[0, 0, 1], [1, 2, 2]]
    assert band.dtype == np.uint8


@pytest.mark.parametrize(("high", "moderate"), [(0.2, 0.5), (0.5, 0.0), (math.inf, 0.1), (math.nan, 0.1)])
def test_refuses_bands_that_cannot_be(high, moderate):
    with pytest.raises(BadInputError, match="bands of variance need 0 < moderate <= high"):
        bands_at(high, moderate)


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_refuses_a_temperature_that_cannot_be(temperature):
    with pytest.raises(BadInputError, match="a temperature is a finite number above 0"):
        Calibration(temperature)


def test_a_calibration_survives_the_way_through_json():
    chosen = choose_bands([case(np.linspace(1, 0.001, 1000), np.arange(1000) < 10)], "variance")
    calibration = Calibration(1.3, 0.05, 0.02, {"variance": chosen})
    assert storage.calibration_from_json(storage.calibration_to_json(calibration)) == calibration
    assert storage.calibration_from_json(None) == Calibration()
    assert ensemble.DoubtBands is DoubtBands
