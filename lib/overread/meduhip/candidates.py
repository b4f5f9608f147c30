"""What is offered to the clinician: up to K regions that the samples fall into (MedUHIP section 3.4).

Raters who agree about everything else still draw more or less generously. So where the samples fall into few groups,
two places go to what is shown, drawn wider and drawn tighter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from overread.meduhip.clustering import (
    CLUSTERERS,
    DEFAULT_CLUSTERING,
    SAME_DICE,
    medoid_of,
    merge_alike,
)
from overread.meduhip.vote import pairwise_dice, sample_dice

# Masks are grouped at this many voxels a side at most, inside the box where any of them could be.
CLUSTERING_EDGE: dict[int, int] = {2: 64, 3: 48}
POSSIBLE = 0.05
POSSIBLE_LOGIT = math.log(POSSIBLE / (1 - POSSIBLE))
# A group of fewer samples than this share is not shown.
SMALLEST_SUPPORT = 0.02
# Log odds that a voxel needs in the soft vote, where 0 is what is shown: the wider candidate and the tighter one
# (chosen on validation cases; +-1 does as much).
LEVELS = (-1.5, 1.5)
# Samples that are taken to agree with such a candidate: this share of them, those with the most alike masks.
ALIKE_SHARE = 1 / 4


@dataclass(frozen=True, eq=False)
class Candidate:
    """One plausible segmentation with those that resemble it.

    Attributes:
        members: `(sample,)` boolean: the samples of this group, or those most like a level.
        medoid: index of the sample in its middle, which is what is shown unless there is a level.
        support: share of all samples that are in the group, in (0, 1]; 0 of a level.
        level: log odds above which the soft vote is shown, below 0 wider and above 0 tighter than the answer; 0 of a
            group of samples.
    """

    members: torch.Tensor
    medoid: int
    support: float
    level: float = 0.0


def possible_box(masks: torch.Tensor, threshold: float = POSSIBLE) -> tuple[slice, ...]:
    """The smallest box `(*space)` outside which no mask `(sample, *space)` exceeds `threshold`; all if none does."""
    possible = masks.amax(dim=0) > threshold
    box = []
    for axis in range(possible.ndim):
        others = [other for other in range(possible.ndim) if other != axis]
        along = possible.amax(dim=others) if others else possible
        where = along.nonzero().flatten()
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(None))
    return tuple(box)


def propose(
    probabilities: torch.Tensor,
    groups: int,
    clustering: str = DEFAULT_CLUSTERING,
    weights: Sequence[float] | None = None,
) -> list[Candidate]:
    """Group the samples of one image.

    Args:
        probabilities: `(sample, *space)` in [0, 1].
        groups: K, the most that are offered; fewer where groups look the same.
        clustering: name in `CLUSTERERS`.
        weights: of the samples, for the support; even where None.

    Returns:
        Candidates, the best supported first; at least one.
    """
    cut = probabilities[(slice(None), *possible_box(probabilities))]
    return _grouped(_shrunk(cut), groups, clustering, weights)


def propose_from_logits(
    logits: torch.Tensor, groups: int, clustering: str = DEFAULT_CLUSTERING, *, levels: bool = False
) -> list[Candidate]:
    """What `propose` gives for `logits.sigmoid()`, with the probabilities of one sample at a time in memory.

    Args:
        clustering: name in `CLUSTERERS`.
        levels: whether two places, where so many are left, go to the answer drawn wider and tighter. Of several groups
            those are unions and intersections, which say nothing new.
    """
    cut = logits[(slice(None), *possible_box(logits, POSSIBLE_LOGIT))]
    shrunk = torch.cat([_shrunk(mask[None].sigmoid()) for mask in cut])
    found = _grouped(shrunk, groups, clustering, None)
    return [*found, *_levels(shrunk, found, groups)] if levels else found


def _shrunk(masks: torch.Tensor) -> torch.Tensor:
    """Masks `(sample, *space)` at the size at which they are compared."""
    axes = masks.ndim - 1
    small = [min(n, CLUSTERING_EDGE[axes]) for n in masks.shape[1:]]
    pool = F.adaptive_avg_pool2d if axes == 2 else F.adaptive_avg_pool3d
    return pool(masks[:, None].float(), small)[:, 0]  # pyright: ignore[reportArgumentType]


def _grouped(
    shrunk: torch.Tensor, groups: int, clustering: str, weights: Sequence[float] | None
) -> list[Candidate]:
    assigned = merge_alike(shrunk, CLUSTERERS[clustering](shrunk, groups))
    distances = 1 - pairwise_dice(shrunk[None])[0]
    share = torch.full((len(shrunk),), 1 / len(shrunk)) if weights is None else torch.tensor(weights)
    found = []
    for group in range(int(assigned.max()) + 1):
        members = assigned == group
        support = float(share[members.cpu()].sum())
        found.append(Candidate(members, int(medoid_of(distances, members)), support))
    found.sort(key=lambda candidate: (-candidate.support, candidate.medoid))
    shown = [
        candidate
        for candidate in found
        if candidate.support >= SMALLEST_SUPPORT and int(candidate.members.sum()) >= 1
    ]
    return shown or found[:1]


def _levels(shrunk: torch.Tensor, found: Sequence[Candidate], groups: int) -> list[Candidate]:
    """The answer drawn wider and tighter, if there is room for both, and nothing that was found looks the same."""
    if len(found) + len(LEVELS) > groups:
        return []
    vote, masks = shrunk.mean(dim=0), (shrunk > 0.5).float()
    there = torch.stack([(vote > 0.5).float(), *(masks[candidate.medoid] for candidate in found)])
    levels: list[Candidate] = []
    for level in LEVELS:
        mask = (vote > 1 / (1 + math.exp(-level))).float()
        alike = float(sample_dice(there[None], mask[None]).max())
        if bool(mask.any()) and alike < SAME_DICE:
            likeness = sample_dice(masks[None], mask[None])[0]
            nearest = likeness.topk(max(1, round(ALIKE_SHARE * len(masks)))).indices
            members = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
            members[nearest] = True
            levels.append(Candidate(members, int(nearest[0]), 0.0, level))
    return levels


def telling_voxels(probabilities: torch.Tensor, members: torch.Tensor, count: int) -> torch.Tensor:
    """The voxels that tell a candidate best from the other samples, `(count, axes)`, the most telling first.

    Args:
        probabilities: `(sample, *space)`.
        members: `(sample,)` boolean; where it holds all samples, the voxels are those it is least sure of.
    """
    chosen = probabilities[members].mean(dim=0)
    others = probabilities[~members].mean(dim=0) if bool((~members).any()) else torch.full_like(chosen, 0.5)
    difference = (chosen - others).abs()
    if not bool((~members).any()):
        difference = 0.5 - difference
    top = difference.flatten().topk(min(count, difference.numel())).indices
    return torch.stack(torch.unravel_index(top, difference.shape), dim=1)


def in_words(added_ml: float, removed_ml: float, unit: str = "mL") -> str:
    """How a candidate differs from what is shown now: `+2.1 mL, −0.3 mL` or `the same`."""
    parts = [
        f"{sign}{volume:{'.0f' if volume >= 10 else '.2g'}} {unit}"
        for sign, volume in (("+", added_ml), ("−", removed_ml))
        if volume >= 0.005
    ]
    return ", ".join(parts) or "the same"
