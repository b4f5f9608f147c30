"""From N masks to one: the majority vote (MedUHIP eq. 2) and losses that go through it (eq. 3)."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

# Voxels added to both sides of an overlap, so that two empty masks agree.
SMOOTH_VOXEL = 1.0
HALF_A_VOTE = 0.5
# Where neither the probability nor one minus it underflows in float32.
LARGEST_LOGIT = 80.0
# Of a large image, voxels that are taken together.
VOXELS_AT_ONCE = 1 << 13


def majority_vote(logits: torch.Tensor) -> torch.Tensor:
    """Eq. 2: where more than half of the masks `(batch, sample, *space)` say foreground; boolean `(batch, *space)`."""
    return (logits > 0).float().mean(dim=1) > 0.5


@torch.no_grad()
def counted_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log odds `(*space)` of eq. 2's vote of one image's masks `(sample, *space)`: each says foreground or not.

    Half a vote is added to both sides, so that all of one opinion have finite odds. Above 0 just where
    `majority_vote` says foreground.
    """
    yes = (logits > 0).float().sum(dim=0) + HALF_A_VOTE
    return (yes / (len(logits) + 2 * HALF_A_VOTE - yes)).log()


def log_soft_vote(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log of the samples' mean probability, and log of one minus it, `(batch, *space)` each.

    Computed without leaving log space, so that neither underflows where all samples agree.
    """
    count = math.log(logits.shape[1])
    inside = F.logsigmoid(logits).logsumexp(dim=1) - count
    outside = F.logsigmoid(-logits).logsumexp(dim=1) - count
    return inside, outside


@torch.no_grad()
def vote_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log odds `(*space)` of the soft vote of one image's masks `(sample, *space)`.

    The difference of what `log_soft_vote` gives, without its gradients and many times as fast: block by block, so that
    what is computed on the way stays in a processor's cache. Logits beyond `LARGEST_LOGIT` count as that.
    """
    flat = logits.flatten(1)
    block = flat.shape[1] if flat.is_cuda else VOXELS_AT_ONCE
    odds = torch.empty(flat.shape[1], device=flat.device)
    for masks, out in zip(flat.split(block, dim=1), odds.split(block), strict=True):
        sure = masks.float().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        inside, outside = sure.sigmoid().sum(dim=0), sure.neg_().sigmoid_().sum(dim=0)
        torch.sub(inside.log_(), outside.log_(), out=out)
    return odds.reshape(logits.shape[1:])


def soft_vote_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the soft vote with a target in [0, 1] (eq. 3), plus one minus its soft Dice.

    The paper has cross-entropy alone; Dice is added because lesions are small. `logits` are
    `(batch, sample, *space)`, `target` `(batch, *space)`; the result is a scalar.
    """
    inside, outside = log_soft_vote(logits)
    cross_entropy = -(target * inside + (1 - target) * outside).mean()
    return cross_entropy + (1 - soft_dice(inside.exp(), target)).mean()


def soft_dice(mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice of soft masks over all axes but the first, `(batch,)`; two empty masks have 1."""
    a, b = mask.flatten(1), target.flatten(1)
    shared = (a * b).sum(dim=1)
    return (2 * shared + SMOOTH_VOXEL) / (a.sum(dim=1) + b.sum(dim=1) + SMOOTH_VOXEL)


def sample_dice(masks: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice of each mask `(batch, sample, *space)` with one target `(batch, *space)`: `(batch, sample)`."""
    a, b = masks.flatten(2), target.flatten(1)[:, None].to(masks.dtype)
    shared = (a * b).sum(dim=2)
    return (2 * shared + SMOOTH_VOXEL) / (a.sum(dim=2) + b.sum(dim=2) + SMOOTH_VOXEL)


def pairwise_dice(masks: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Soft Dice of every mask `(batch, n, *space)` with every other `(batch, m, *space)`: `(batch, n, m)`."""
    a = masks.flatten(2)
    b = a if others is None else others.flatten(2).to(a.dtype)
    shared = a @ b.transpose(1, 2)
    total = a.sum(dim=2)[:, :, None] + b.sum(dim=2)[:, None, :]
    return (2 * shared + SMOOTH_VOXEL) / (total + SMOOTH_VOXEL)
