"""Losses on the whole set of samples: they are to differ as the raters do, which no equation of the paper asks for."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

# Voxels added to intersection and union, so that two empty masks are at distance 0.
SMOOTH_VOXEL = 1.0
# Temperature of `coverage_loss`, in the units of its per-sample loss. Plausible masks differ by a few hundredths there,
# so this sends each mask's gradient to few samples; at 0.05 it goes to all alike, and they stay the same.
CLOSE = 0.005


def set_loss(probabilities: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
    """Squared generalised energy distance between samples and raters with soft masks; scalar, 0 where the sets agree.

    2 E d(P, Y) - E d(P, P') - E d(Y, Y') with d = 1 - soft IoU, expectations over all pairs including a mask with
    itself (Kohl et al. 2018, arXiv:1806.05034, section 3, made soft so that it can be descended, as PULASki does,
    arXiv:2312.15686).

    Args:
        probabilities: `(batch, sample, *space)`.
        raters: their masks, `(batch, rater, *space)`, in [0, 1].
    """
    samples, labels = probabilities.flatten(2), raters.flatten(2).to(probabilities.dtype)
    across = _distance(samples, labels).mean(dim=(1, 2))
    # Two soft masks that are the same are at a soft distance above 0; a distance to itself is none.
    among = _without_diagonal(_distance(samples, samples))
    between_raters = _without_diagonal(_distance(labels, labels))
    return (2 * across - among - between_raters).mean()


def coverage_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """How far the closest samples are from each mask; scalar.

    The marginal likelihood of a mask under samples as an evenly weighted mixture, tempered: -T log mean_i exp(-l_i / T)
    with l_i the mean cross-entropy plus one minus soft Dice of sample i. Its gradient goes to the samples that are
    closest already, so that they part company; an average over samples would pull all of them to the same place
    (multiple-choice learning, Guzman-Rivera et al. 2012; D-Persona bounds its set alike, arXiv:2403.13417).

    Args:
        logits: `(batch, sample, *space)`.
        masks: what somebody may have in mind, `(batch, mask, *space)`, in [0, 1].
    """
    said, wanted = logits.flatten(2), masks.flatten(2).to(logits.dtype)
    voxels = said.shape[2]
    inside, outside = F.logsigmoid(said), F.logsigmoid(-said)
    # Cross-entropy of every pair as two matrix products.
    log_likelihood = inside @ wanted.transpose(1, 2) + outside @ (1 - wanted).transpose(1, 2)
    soft = inside.exp()
    shared = soft @ wanted.transpose(1, 2)
    total = soft.sum(dim=2)[:, :, None] + wanted.sum(dim=2)[:, None, :]
    losses = -log_likelihood / voxels + 1 - (2 * shared + SMOOTH_VOXEL) / (total + SMOOTH_VOXEL)
    closest = -CLOSE * ((-losses / CLOSE).logsumexp(dim=1) - math.log(said.shape[1]))
    return closest.mean()


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shared = a @ b.transpose(1, 2)
    union = a.sum(dim=2)[:, :, None] + b.sum(dim=2)[:, None, :] - shared
    return 1 - (shared + SMOOTH_VOXEL) / (union + SMOOTH_VOXEL)


def _without_diagonal(distances: torch.Tensor) -> torch.Tensor:
    count = distances.shape[1]
    return (distances.sum(dim=(1, 2)) - distances.diagonal(dim1=1, dim2=2).sum(dim=1)) / count**2
