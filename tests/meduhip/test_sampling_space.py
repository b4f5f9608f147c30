"""The sampling space is a mixture of Gaussians, and its samples are spread as the mixture says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from overread.domain import BadInputError
from overread.meduhip.sampling_space import SamplingSpace, draw, draw_collapsed


def space_of(weights, means, deviation: float = 1.0) -> SamplingSpace:
    """Of one image; `means` is (component, dimension)."""
    centres = torch.tensor(means, dtype=torch.float32)[None]
    return SamplingSpace(
        torch.tensor(weights, dtype=torch.float32).log()[None],
        centres,
        torch.full_like(centres, 2 * math.log(deviation)),
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def share_between_the_modes(samples: torch.Tensor) -> float:
    """Share of samples within 2 of the middle between components at -5 and 5."""
    return float((samples.abs() < 2).float().mean())


# weights


def test_new_weights_are_normalised():
    space = space_of([0.5, 0.5], [[0.0], [1.0]]).with_weights(torch.tensor([[3.0, 1.0]]))
    assert space.weights[0].tolist() == pytest.approx([0.75, 0.25])
    assert space.log_weights.exp().sum() == pytest.approx(1)


def test_a_component_without_weight_keeps_a_finite_logarithm():
    space = space_of([0.5, 0.5], [[0.0], [1.0]]).with_weights(torch.tensor([[1.0, 0.0]]))
    assert bool(space.log_weights.isfinite().all())
    assert space.weights[0].tolist() == pytest.approx([1.0, 0.0], abs=2e-6)


def test_exploring_takes_the_root_of_the_weights_and_one_and_a_half_times_the_deviation():
    space = space_of([0.8, 0.2], [[0.0], [1.0]], deviation=2.0).explored()
    # sqrt(0.8) : sqrt(0.2) is 2 : 1.
    assert space.weights[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert (0.5 * space.log_variances).exp().flatten().tolist() == pytest.approx([3.0, 3.0])


def test_a_detached_space_has_the_same_numbers_without_their_history():
    means = torch.zeros(1, 2, 3, requires_grad=True)
    space = SamplingSpace(torch.zeros(1, 2), means * 2, means - 1).detached()
    assert not space.means.requires_grad
    assert not space.log_variances.requires_grad
    assert torch.equal(space.log_variances, torch.full((1, 2, 3), -1.0))


def test_the_mixture_is_that_of_torch():
    space = space_of([0.25, 0.75], [[0.0, 0.0], [2.0, 2.0]], deviation=2.0)
    at = torch.tensor([[1.0, 0.5]])
    expected = sum(
        weight * math.prod(stats.norm.pdf(float(x), mean, 2.0) for x in at[0])
        for weight, mean in ((0.25, 0.0), (0.75, 2.0))
    )
    assert float(space.mixture.log_prob(at).exp()) == pytest.approx(expected, rel=1e-5)


def test_means_and_variances_are_of_one_shape():
    with pytest.raises(BadInputError, match=r"means \(1, 2, 3\) and log variances \(1, 2, 4\)"):
        SamplingSpace(torch.zeros(1, 2), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))


def test_there_is_one_weight_for_each_component():
    with pytest.raises(BadInputError, match=r"log weights \(1, 3\) .* expected \(1, 2\)"):
        SamplingSpace(torch.zeros(1, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


# draws


def test_components_are_drawn_in_proportion_to_their_weights():
    weights = [0.5, 0.3, 0.15, 0.05]
    space = SamplingSpace(
        torch.tensor([weights]).log().expand(2000, -1), torch.zeros(2000, 4, 1), torch.zeros(2000, 4, 1)
    )
    # One sample an image, so that the samples are independent.
    drawn = torch.bincount(draw(space, 1, seeded(0)).components.flatten(), minlength=4)
    assert stats.chisquare(drawn.numpy(), [2000 * w for w in weights]).pvalue > 0.01


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=7),
    st.integers(1, 40),
    st.integers(0, 1000),
)
def test_a_component_is_drawn_as_often_as_it_weighs_up_to_one(weights, count, seed):
    space = space_of(weights, [[0.0]] * len(weights))
    drawn = draw(space, count, seeded(seed)).one_hot(len(weights)).sum(dim=1)[0]
    expected = count * space.weights[0]
    assert int(drawn.sum()) == count
    # Nothing but floor and ceiling; the small term is rounding of float32.
    assert bool(((drawn >= (expected - 1e-4).floor()) & (drawn <= (expected + 1e-4).ceil())).all())


def test_each_sample_lies_where_its_component_does():
    space = space_of([0.5, 0.5], [[-100.0, 0.0], [100.0, 0.0]])
    draws = draw(space, 32, seeded(0))
    side = (draws.samples[0, :, 0] > 0).long()
    assert torch.equal(side, draws.components[0])


def test_samples_of_a_component_have_its_mean_and_deviation():
    space = space_of([0.5, 0.5], [[-3.0], [4.0]], deviation=0.5)
    draws = draw(space, 4000, seeded(1))
    for component, mean in ((0, -3.0), (1, 4.0)):
        samples = draws.samples[0, draws.components[0] == component, 0]
        assert float(samples.mean()) == pytest.approx(mean, abs=0.05)
        assert float(samples.std()) == pytest.approx(0.5, abs=0.03)


def test_components_far_apart_give_samples_with_two_modes():
    space = space_of([0.5, 0.5], [[-5.0], [5.0]])
    samples = draw(space, 500, seeded(0)).samples
    assert share_between_the_modes(samples) < 0.01
    assert float((samples > 0).float().mean()) == pytest.approx(0.5)


def test_the_collapsed_sampler_has_its_one_mode_between_them():
    space = space_of([0.5, 0.5], [[-5.0], [5.0]])
    samples = draw_collapsed(space, 500, seeded(0)).samples
    assert share_between_the_modes(samples) > 0.9


def test_collapsed_samples_have_the_weighted_mean_and_deviation():
    space = SamplingSpace(
        torch.tensor([[0.25, 0.75]]).log(),
        torch.tensor([[[0.0], [8.0]]]),
        torch.tensor([[[0.0], [2 * math.log(3.0)]]]),
    )
    samples = draw_collapsed(space, 4000, seeded(0)).samples
    assert float(samples.mean()) == pytest.approx(6.0, abs=0.15)
    # 0.25 * 1 + 0.75 * 3
    assert float(samples.std()) == pytest.approx(2.5, abs=0.1)


@pytest.mark.parametrize("sampler", [draw, draw_collapsed])
def test_the_same_seed_draws_the_same_samples(sampler):
    space = space_of([0.5, 0.5], [[0.0, 1.0], [2.0, 3.0]])
    first, second = sampler(space, 9, seeded(7)), sampler(space, 9, seeded(7))
    assert torch.equal(first.samples, second.samples)
    assert torch.equal(first.components, second.components)
    assert not torch.equal(first.samples, sampler(space, 9, seeded(8)).samples)


def test_gradients_reach_means_and_variances_and_not_the_weights():
    logs = torch.zeros(1, 2, requires_grad=True)
    means = torch.zeros(1, 2, 1, requires_grad=True)
    log_variances = torch.zeros(1, 2, 1, requires_grad=True)
    draws = draw(SamplingSpace(logs.log_softmax(dim=1), means, log_variances), 10, seeded(0))
    draws.samples.sum().backward()
    # Each mean moves the samples that came from it by as much.
    assert means.grad.flatten().tolist() == [5.0, 5.0]
    # d(sigma eps)/d(log sigma^2) = sigma eps / 2, summed over the component's samples.
    noise = [float(draws.samples[0, draws.components[0] == m].detach().sum()) for m in (0, 1)]
    assert log_variances.grad.flatten().tolist() == pytest.approx([n / 2 for n in noise], rel=1e-4)
    assert logs.grad is None


def test_lineage_as_one_hot_has_one_component_a_sample():
    draws = draw(space_of([0.5, 0.5], [[0.0], [1.0]]), 4, seeded(0))
    assert draws.one_hot(2)[0].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
