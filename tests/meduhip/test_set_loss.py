"""Losses on sets: samples are to differ as the raters do, and one of them is to be near each rater."""

import math

import pytest
import torch
from torch.nn import functional as F

from overread.meduhip.set_loss import CLOSE, coverage_loss, set_loss


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None]


LEFT, RIGHT = (1, 1, 0, 0), (0, 0, 1, 1)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """One minus soft IoU with one voxel on both sides, in float64."""
    a, b = a.double(), b.double()
    shared = float((a * b).sum())
    return 1 - (shared + 1) / (float(a.sum() + b.sum()) - shared + 1)


def test_is_zero_for_the_same_set():
    assert float(set_loss(masks(LEFT, RIGHT), masks(RIGHT, LEFT))) == pytest.approx(0, abs=1e-6)


def test_is_zero_where_the_shares_are_the_same():
    assert float(set_loss(masks(LEFT, LEFT, RIGHT, RIGHT), masks(LEFT, RIGHT))) == pytest.approx(0, abs=1e-6)


def test_samples_that_are_all_alike_pay_for_raters_who_differ():
    # d(left, right) = 1 - 1/5. Across: half of it; among samples: 0; between raters: half of it.
    assert float(set_loss(masks(LEFT, LEFT), masks(LEFT, RIGHT))) == pytest.approx(2 * 0.4 - 0 - 0.4)


def test_samples_that_differ_pay_for_raters_who_agree():
    assert float(set_loss(masks(LEFT, RIGHT), masks(LEFT, LEFT))) == pytest.approx(0.4)


def test_one_sample_and_one_rater_are_twice_their_distance():
    assert float(set_loss(masks(LEFT), masks(RIGHT))) == pytest.approx(2 * 0.8)


def test_is_the_energy_distance_pair_by_pair():
    samples, raters = noise(2, 4, 3, 5).sigmoid(), (noise(2, 3, 3, 5, seed=1) > 0).float()
    expected = 0.0
    for p, y in zip(samples, raters, strict=True):
        across = sum(distance(a, b) for a in p for b in y) / (4 * 3)
        among = sum(distance(p[i], p[j]) for i in range(4) for j in range(4) if i != j) / 16
        between = sum(distance(y[i], y[j]) for i in range(3) for j in range(3) if i != j) / 9
        expected += (2 * across - among - between) / 2
    assert float(set_loss(samples, raters)) == pytest.approx(expected, rel=1e-5)


def test_descending_it_parts_samples_that_were_alike():
    logits = (0.01 * noise(1, 6, 4)).requires_grad_()
    raters = masks(LEFT, RIGHT)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        set_loss(logits.sigmoid(), raters).backward()
        optimizer.step()
    said = {tuple(row) for row in (logits > 0).int()[0].tolist()}
    assert {LEFT, RIGHT} <= said


# coverage


def test_coverage_is_the_tempered_mixture_pair_by_pair():
    logits, wanted = noise(2, 4, 3, 5), (noise(2, 3, 3, 5, seed=1) > 0).float()
    expected = 0.0
    for samples, raters in zip(logits.double(), wanted.double(), strict=True):
        for rater in raters:
            terms = []
            for sample in samples:
                soft = sample.sigmoid()
                dice = (2 * (soft * rater).sum() + 1) / (soft.sum() + rater.sum() + 1)
                loss = F.binary_cross_entropy(soft, rater) + 1 - dice
                terms.append(math.exp(-float(loss) / CLOSE))
            expected -= CLOSE * math.log(sum(terms) / 4) / (2 * 3)
    assert float(coverage_loss(logits, wanted)) == pytest.approx(expected, rel=1e-4)


def test_coverage_costs_next_to_nothing_where_each_mask_has_a_sample():
    logits = 60 * (2 * masks(LEFT, RIGHT) - 1)
    # Each mask is hit by one of two samples: -T log(1/2).
    assert float(coverage_loss(logits, masks(RIGHT, LEFT))) == pytest.approx(CLOSE * math.log(2), abs=1e-5)


def test_coverage_pulls_the_closest_sample_and_leaves_the_others():
    logits = (2 * (2 * masks(LEFT, RIGHT) - 1)).requires_grad_()
    coverage_loss(logits, masks((1, 1, 1, 0))).backward()
    near, far = logits.grad[0].abs().sum(dim=1).tolist()
    assert near > 100 * far


def test_coverage_of_empty_masks_is_finite():
    logits = noise(1, 3, 4).requires_grad_()
    loss = coverage_loss(logits, torch.zeros(1, 2, 4)) + set_loss(logits.sigmoid(), torch.zeros(1, 2, 4))
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(logits.grad.isfinite().all())
