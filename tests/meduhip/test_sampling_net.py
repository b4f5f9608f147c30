"""What was said moves the mixture: means a little, weights from Bayes' posterior onwards (eq. 7)."""

import math

import pytest
import torch
from torch.nn import functional as F

from overread.meduhip.sampling_net import (
    FARTHEST_MOVE,
    LARGEST_LOG_VARIANCE,
    SMALLEST_VARIANCE,
    MeanVarianceNet,
    WeightNet,
)


@pytest.fixture
def moving() -> MeanVarianceNet:
    torch.manual_seed(0)
    return MeanVarianceNet(prompt_width=4, context_width=3, components=5, dimension=2)


EVEN = torch.full((2, 5), 0.2)


def test_the_space_has_the_weights_that_were_given(moving):
    weights = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]])
    space = moving(torch.randn(2, 4), torch.randn(2, 3), weights)
    torch.testing.assert_close(space.weights, weights)
    assert space.means.shape == space.log_variances.shape == (2, 5, 2)


def test_a_component_keeps_its_meaning_whatever_is_said(moving):
    space = moving(1000 * torch.randn(2, 4), 1000 * torch.randn(2, 3), EVEN)
    assert float((space.means - moving.bank).detach().abs().max()) <= FARTHEST_MOVE + 1e-5


def test_image_and_prompt_both_move_the_means(moving):
    prompt, context = torch.randn(1, 4).expand(2, -1), torch.randn(1, 3).expand(2, -1)
    other = torch.tensor([[0.0], [1.0]])
    for said in (moving(prompt + other, context, EVEN), moving(prompt, context + other, EVEN)):
        assert not torch.allclose(said.means[0], said.means[1])


@pytest.mark.parametrize(
    ("bias", "log_variance"),
    [
        (-100.0, math.log(SMALLEST_VARIANCE)),
        (0.0, math.log(math.log(2) + SMALLEST_VARIANCE)),
        (100.0, LARGEST_LOG_VARIANCE),
    ],
)
def test_variances_are_neither_none_nor_boundless(moving, bias, log_variance):
    torch.nn.init.zeros_(moving.layers[-1].weight)
    torch.nn.init.constant_(moving.layers[-1].bias, bias)
    space = moving(torch.zeros(2, 4), torch.zeros(2, 3), EVEN)
    torch.testing.assert_close(space.log_variances.detach(), torch.full((2, 5, 2), log_variance))


def test_a_weight_of_nothing_stays_finite(moving):
    space = moving(torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0, 0]]))
    assert bool(space.log_weights.isfinite().all())


def test_untrained_the_next_weights_are_bayes_posterior():
    posterior = torch.tensor([[0.7, 0.2, 0.1], [0.98, 0.01, 0.01]])
    torch.testing.assert_close(WeightNet(3)(posterior).detach(), posterior)


def test_weights_are_softmax_of_log_posterior_and_what_the_layers_add():
    network = WeightNet(3)
    torch.nn.init.normal_(network.layers[-1].weight, generator=torch.Generator().manual_seed(0))
    posterior = torch.tensor([[0.7, 0.2, 0.1]])
    said = network.layers(posterior.log())[0].tolist()
    terms = [p * math.exp(a) for p, a in zip(posterior[0].tolist(), said, strict=True)]
    assert network(posterior)[0].tolist() == pytest.approx([t / sum(terms) for t in terms], rel=1e-4)


def test_a_posterior_of_nothing_stays_finite():
    assert WeightNet(3)(torch.tensor([[1.0, 0.0, 0.0]]))[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)


def test_descending_eq_7_leads_to_its_target():
    torch.manual_seed(0)
    network = WeightNet(3)
    posterior, target = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.2, 0.7, 0.1]])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.mse_loss(network(posterior), target).backward()
        optimizer.step()
    torch.testing.assert_close(network(posterior).detach(), target, atol=0.02, rtol=0)


def test_a_network_that_says_the_same_whatever_was_chosen_is_deaf_until_it_forgets():
    network = WeightNet(3)
    assert not network.is_deaf()
    with torch.no_grad():
        network.layers[-1].bias[:] = torch.tensor([0.0, 5, 0])
    # In doubt it prefers the second, but hears.
    assert network(torch.full((1, 3), 1 / 3)).argmax() == 1
    assert not network.is_deaf()
    with torch.no_grad():
        network.layers[-1].bias[:] = torch.tensor([0.0, 50, 0])
    assert network.is_deaf()
    network.forget()
    assert not network.is_deaf()
    posterior = torch.tensor([[0.7, 0.2, 0.1]])
    torch.testing.assert_close(network(posterior).detach(), posterior)
    # Where there is nothing to choose, nothing is overheard.
    assert not WeightNet(1).is_deaf()
