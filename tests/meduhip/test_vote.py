"""N masks become one by majority, and the loss that goes through the soft vote stays in log space."""

import pytest
import torch

from overread.meduhip.vote import (
    VOXELS_AT_ONCE,
    counted_log_odds,
    log_soft_vote,
    majority_vote,
    pairwise_dice,
    sample_dice,
    soft_dice,
    soft_vote_loss,
    vote_log_odds,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def masks(*rows) -> torch.Tensor:
    """Of one image."""
    return torch.tensor(rows, dtype=torch.float32)[None]


# eq. 2


def test_more_than_half_of_the_masks_decide():
    logits = masks([1, 1, -1, -1], [1, 1, 1, -1], [1, -1, -1, -1])
    assert majority_vote(logits)[0].tolist() == [True, True, False, False]


def test_a_tie_is_background():
    assert majority_vote(masks([5.0], [-0.1]))[0].tolist() == [False]


def test_each_mask_has_one_vote_however_sure_it_is():
    assert majority_vote(masks([0.1], [0.1], [-50.0]))[0].tolist() == [True]


def test_vote_is_a_literal_count():
    logits = noise(2, 5, 4, 3)
    expected = torch.zeros(2, 4, 3, dtype=torch.bool)
    for b in range(2):
        for x in range(4):
            for y in range(3):
                expected[b, x, y] = sum(float(logits[b, n, x, y]) > 0 for n in range(5)) / 5 > 1 / 2
    assert torch.equal(majority_vote(logits), expected)


def test_counted_odds_are_above_0_where_the_majority_is():
    logits = noise(6, 9, 7)
    assert torch.equal(counted_log_odds(logits) > 0, majority_vote(logits[None])[0])


def test_counted_odds_are_votes_for_to_votes_against_with_half_a_vote_on_each_side():
    odds = counted_log_odds(torch.tensor([[9.0, 0.1, -1.0], [0.1, 0.1, -1.0], [-50.0, 0.1, -1.0]]))
    torch.testing.assert_close(odds.exp(), torch.tensor([2.5 / 1.5, 3.5 / 0.5, 0.5 / 3.5]))


# eqs. 3 and 6


def test_the_votes_log_odds_are_those_of_the_soft_vote():
    # Not a multiple of what is taken together; sure enough that 1 - p would round to 0.
    logits = 12 * noise(5, 3, VOXELS_AT_ONCE // 2 + 1)
    inside, outside = log_soft_vote(logits[None].double())
    torch.testing.assert_close(vote_log_odds(logits), (inside - outside)[0].float(), atol=1e-5, rtol=1e-5)


def test_the_votes_log_odds_are_finite_however_sure_the_samples_are():
    odds = vote_log_odds(torch.tensor([[[500.0, -500.0, 500.0]], [[500.0, -500.0, -500.0]]]))
    torch.testing.assert_close(odds, torch.tensor([[80.0, -80.0, 0.0]]))


def test_soft_vote_is_the_mean_probability():
    logits = noise(2, 6, 5, 4)
    inside, outside = log_soft_vote(logits)
    torch.testing.assert_close(inside.exp(), logits.sigmoid().mean(dim=1))
    torch.testing.assert_close(outside.exp(), 1 - logits.sigmoid().mean(dim=1))


def test_soft_vote_stays_finite_where_all_samples_are_sure():
    inside, outside = log_soft_vote(masks([200.0, -200.0], [200.0, -200.0]))
    assert inside[0].tolist() == pytest.approx([0.0, -200.0])
    assert outside[0].tolist() == pytest.approx([-200.0, 0.0])


def test_loss_is_cross_entropy_and_dice_of_the_mean_probability():
    logits, target = noise(3, 5, 4, 4), noise(3, 4, 4, seed=1).sigmoid()
    mean = logits.double().sigmoid().mean(dim=1)
    wanted = target.double()
    cross_entropy = -(wanted * mean.log() + (1 - wanted) * (1 - mean).log()).mean()
    dice = torch.stack(
        [(2 * (m * w).sum() + 1) / (m.sum() + w.sum() + 1) for m, w in zip(mean, wanted, strict=True)]
    )
    assert float(soft_vote_loss(logits, target)) == pytest.approx(
        float(cross_entropy + 1 - dice.mean()), rel=1e-5
    )


def test_loss_has_the_gradient_of_the_naive_form():
    logits = noise(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    target = (noise(2, 4, 4, seed=1, dtype=torch.float64) > 0).double()
    (fused,) = torch.autograd.grad(soft_vote_loss(logits, target), logits)
    mean = logits.sigmoid().mean(dim=1)
    naive = torch.nn.functional.binary_cross_entropy(mean, target) + (1 - soft_dice(mean, target)).mean()
    torch.testing.assert_close(fused, torch.autograd.grad(naive, logits)[0])


def test_gradient_survives_where_the_naive_form_has_none():
    logits = torch.full((1, 2, 1, 1), -200.0, requires_grad=True)
    soft_vote_loss(logits, torch.ones(1, 1, 1)).backward()
    # Each of the two samples carries half of the gradient -1 of -log sigmoid.
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, -0.5], rel=1e-4)


def test_the_right_answer_costs_nothing():
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    logits = (60 * (2 * target - 1))[:, None].expand(1, 4, 2, 2)
    assert float(soft_vote_loss(logits, target)) == pytest.approx(0, abs=1e-6)


# Dice, with one voxel added to both sides


def test_dice_of_masks_that_share_half():
    # Two voxels each, one shared: (2 + 1) / (4 + 1).
    first, second = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    assert soft_dice(first, second).tolist() == pytest.approx([0.6])


def test_two_empty_masks_agree():
    empty = torch.zeros(1, 3)
    assert soft_dice(empty, empty).tolist() == [1]
    assert sample_dice(empty[None], empty).tolist() == [[1]]
    assert pairwise_dice(empty[None]).tolist() == [[[1]]]


def test_dice_of_samples_is_that_of_each_sample():
    samples, target = noise(2, 4, 5, 3).sigmoid(), noise(2, 5, 3, seed=1) > 0
    expected = torch.stack([soft_dice(samples[:, n], target.float()) for n in range(4)], dim=1)
    torch.testing.assert_close(sample_dice(samples, target), expected)


def test_pairwise_dice_is_that_of_each_pair():
    first, second = noise(2, 3, 5, 4).sigmoid(), noise(2, 4, 5, 4, seed=1).sigmoid()
    table = pairwise_dice(first, second)
    for n in range(3):
        for m in range(4):
            torch.testing.assert_close(table[:, n, m], soft_dice(first[:, n], second[:, m]))
    torch.testing.assert_close(pairwise_dice(first), pairwise_dice(first, first))
