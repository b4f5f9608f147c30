"""What a choice says about the components is Bayes' rule, counted or computed from densities."""

import math

import pytest
import torch
from scipy import stats

from overread.meduhip.posterior import (
    density_posterior,
    lineage_posterior,
    mask_posterior,
    move_means,
    resemblance,
)
from overread.meduhip.sampling_space import Draws, SamplingSpace, draw


def space_of(weights) -> SamplingSpace:
    count = len(weights)
    return SamplingSpace(torch.tensor([weights]).log(), torch.zeros(1, count, 2), torch.zeros(1, count, 2))


def draws_of(components, samples=None) -> Draws:
    lineage = torch.tensor([components])
    return Draws(torch.zeros(1, len(components), 2) if samples is None else samples, lineage)


def posterior(weights, components, chosen, **options) -> list[float]:
    options = {"smoothing": 1e-9, "lapse": 0.0, **options}
    evidence = torch.tensor([chosen], dtype=torch.float32)
    return lineage_posterior(space_of(weights), draws_of(components), evidence, **options)[0].tolist()


# by lineage


def test_is_the_share_of_the_choice_that_came_from_each_component():
    # Four samples of each; three of the first and one of the second were chosen: 3/4 to 1/4.
    assert posterior([0.5, 0.5], [0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0, 0, 0]) == pytest.approx(
        [0.75, 0.25]
    )


def test_prior_weights_count():
    # Likelihoods 1/2 and 1 with priors 0.8 and 0.2: 0.4 to 0.2.
    assert posterior([0.8, 0.2], [0, 0, 0, 0, 1], [1, 1, 0, 0, 1]) == pytest.approx([2 / 3, 1 / 3])


def test_soft_evidence_is_counted_in_parts():
    # 0.6 of the first's samples and 0.2 of the second's.
    assert posterior([0.5, 0.5], [0, 0, 1, 1], [0.9, 0.3, 0.2, 0.2]) == pytest.approx([0.75, 0.25])


def test_smoothing_adds_samples_with_the_overall_share():
    # Overall share 1/2. With one pseudo-sample: (2 + .5) / 3 and (0 + .5) / 3.
    assert posterior([0.5, 0.5], [0, 0, 1, 1], [1, 1, 0, 0], smoothing=1.0) == pytest.approx([5 / 6, 1 / 6])


def test_a_lapse_leaves_a_share_of_the_prior():
    # Without lapse (1, 0).
    assert posterior([0.3, 0.7], [0, 1, 1], [1, 0, 0], lapse=0.1) == pytest.approx(
        [0.9 + 0.03, 0.07], abs=1e-6
    )


def test_a_component_without_samples_stays_at_its_prior():
    result = posterior([0.45, 0.45, 0.1], [0, 0, 1, 1], [1, 1, 0, 0], smoothing=1.0)
    assert result[2] == pytest.approx(0.1)
    assert result[0] > 0.45 > result[1]


def test_choosing_all_samples_says_nothing():
    assert posterior([0.2, 0.3, 0.5], [0, 1, 1, 2], [1, 1, 1, 1], smoothing=1.0) == pytest.approx(
        [0.2, 0.3, 0.5]
    )


def test_choosing_no_sample_gives_a_distribution_all_the_same():
    result = posterior([0.2, 0.8], [0, 1], [0, 0], smoothing=1.0, lapse=0.1)
    assert sum(result) == pytest.approx(1)


def test_images_of_a_batch_do_not_share_their_choice():
    space = SamplingSpace(torch.full((2, 2), math.log(0.5)), torch.zeros(2, 2, 1), torch.zeros(2, 2, 1))
    draws = Draws(torch.zeros(2, 2, 1), torch.tensor([[0, 1], [0, 1]]))
    chosen = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    result = lineage_posterior(space, draws, chosen)
    assert result[0].tolist() == pytest.approx(result[1].flip(0).tolist())
    assert result[0, 0] > 0.6


def test_counted_posterior_approaches_the_one_from_densities():
    # A choice of all samples above 0.5, of components at 0 and 1: the likelihoods are the normal tails.
    space = SamplingSpace(
        torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, 1)
    )
    draws = draw(space, 20_000, torch.Generator().manual_seed(0))
    result = lineage_posterior(space, draws, (draws.samples[..., 0] > 0.5).float(), lapse=0)
    tails = [0.6 * stats.norm.sf(0.5), 0.4 * stats.norm.sf(-0.5)]
    assert result[0].tolist() == pytest.approx([tail / sum(tails) for tail in tails], abs=0.01)


# by densities (eqs. 4 and 5)


def test_density_posterior_is_bayes_rule_over_normal_densities():
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(3, 4, generator=generator).log_softmax(dim=1)
    means, log_variances, data = (
        torch.randn(*shape, generator=generator) for shape in ((3, 4, 5), (3, 4, 5), (3, 5))
    )
    result = density_posterior(SamplingSpace(logs, means, log_variances), data)
    for b in range(3):
        joint = []
        for m in range(4):
            density = math.exp(float(logs[b, m]))
            for d in range(5):
                variance = math.exp(float(log_variances[b, m, d]))
                squared = (float(data[b, d]) - float(means[b, m, d])) ** 2
                density *= math.exp(-0.5 * squared / variance) / math.sqrt(2 * math.pi * variance)
            joint.append(density)
        assert result[b].tolist() == pytest.approx([j / sum(joint) for j in joint], rel=1e-4)


def test_density_posterior_does_not_underflow_far_from_all_components():
    space = SamplingSpace(
        torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, 1)
    )
    # Densities of about exp(-500000) both.
    assert density_posterior(space, torch.tensor([[1000.0]]))[0].tolist() == pytest.approx([0.0, 1.0])


# by likeness to a mask


def test_resemblance_of_the_likest_sample_is_one():
    # Two differ from it by ten and by one temperature.
    result = resemblance(torch.tensor([[0.9, 0.4, 0.8]]), temperature=0.1)
    assert result[0].tolist() == pytest.approx([1.0, math.exp(-5), math.exp(-1)], rel=1e-4)


def test_a_mask_posterior_is_each_components_share_of_the_likeness():
    # exp(8), exp(8), exp(5) after the temperature of 0.1.
    result = mask_posterior(space_of([0.5, 0.5]), draws_of([0, 1, 1]), torch.tensor([[0.8, 0.8, 0.5]]))
    first, third = 1.0, math.exp(-3)
    total = 2 * first + third
    assert result[0].tolist() == pytest.approx([first / total, (first + third) / total], rel=1e-4)


# means


def test_a_mean_goes_half_way_to_the_mean_of_its_chosen_samples():
    samples = torch.tensor([[[2.0, 0.0], [4.0, 2.0], [50.0, 50.0]]])
    moved = move_means(space_of([1.0]), draws_of([0, 0, 0], samples), torch.tensor([[1.0, 1.0, 0.0]]))
    # From (0, 0) to the middle of the way to (3, 1).
    assert moved.means[0, 0].tolist() == pytest.approx([1.5, 0.5])


def test_a_mean_with_fewer_than_two_chosen_samples_stays():
    samples = torch.full((1, 3, 2), 8.0)
    chosen = torch.tensor([[1.0, 0.5, 0.0]])
    space = space_of([0.5, 0.5])
    assert torch.equal(move_means(space, draws_of([0, 0, 1], samples), chosen).means, space.means)


def test_moving_leaves_weights_variances_and_the_argument():
    space = space_of([0.5, 0.5])
    before = space.means.clone()
    moved = move_means(space, draws_of([0, 0], torch.ones(1, 2, 2)), torch.ones(1, 2), share=1.0)
    assert moved.means[0].tolist() == [[1, 1], [0, 0]]
    assert moved.log_weights is space.log_weights
    assert moved.log_variances is space.log_variances
    assert torch.equal(space.means, before)
