"""N masks in K groups: k-means (the paper's) and k-medoids on the Dice distance (whose centre is a real sample)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from overread.domain import Registry
from overread.meduhip.vote import pairwise_dice

DEFAULT_CLUSTERING = "kmedoids"
ITERATIONS = 10
# Groups whose centres are this alike would look the same to a reader.
SAME_DICE = 0.98


# Masks `(sample, *space)` in [0, 1] of one image, and the largest number of groups, to group numbers `(sample,)`
# without gaps. The first centre lies in the middle of all masks, each further one farthest from those before, so that
# the same masks give the same groups.
Clusterer = Callable[[torch.Tensor, int], torch.Tensor]
CLUSTERERS: Registry[Clusterer] = Registry("clustering")


@CLUSTERERS.register("kmeans")
def kmeans(masks: torch.Tensor, groups: int) -> torch.Tensor:
    """Lloyd's k-means on voxel values (MedUHIP section 3.4), started from centres far apart."""
    values = masks.flatten(1)
    distances = torch.cdist(values, values)
    centres = values[_far_apart(distances, groups)]
    assigned = torch.cdist(values, centres).argmin(dim=1)
    for _ in range(ITERATIONS):
        centres = torch.stack(
            [
                values[assigned == group].mean(dim=0) if bool((assigned == group).any()) else centres[group]
                for group in range(len(centres))
            ]
        )
        following = torch.cdist(values, centres).argmin(dim=1)
        if torch.equal(following, assigned):
            break
        assigned = following
    return without_gaps(assigned)


@CLUSTERERS.register("kmedoids")
def kmedoids(masks: torch.Tensor, groups: int) -> torch.Tensor:
    """k-medoids on 1 - soft Dice: each group gathers round one of its samples."""
    # The soft Dice of a soft mask with itself is below 1; its distance to itself is none.
    distances = (1 - pairwise_dice(masks[None])[0]).fill_diagonal_(0)
    medoids = _far_apart(distances, groups)
    assigned = distances[:, medoids].argmin(dim=1)
    for _ in range(ITERATIONS):
        following = torch.stack([medoid_of(distances, assigned == group) for group in range(len(medoids))])
        if torch.equal(following, medoids):
            break
        medoids = following
        assigned = distances[:, medoids].argmin(dim=1)
    return without_gaps(assigned)


def medoid_of(distances: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Index of the member with the smallest sum of distances `(sample, sample)` to the members `(sample,)`."""
    cost = distances[:, members].sum(dim=1)
    return torch.where(members, cost, torch.inf).argmin()


def merge_alike(masks: torch.Tensor, assigned: torch.Tensor, dice: float = SAME_DICE) -> torch.Tensor:
    """Join groups whose outlines (mean above 0.5) have a Dice above `dice`; the numbers of the result have no gaps."""
    assigned = assigned.clone()
    groups = int(assigned.max()) + 1
    means = torch.stack([masks[assigned == group].mean(dim=0) for group in range(groups)])
    # Soft Dice would tell apart groups that are the same but unsure.
    alike = pairwise_dice((means > 0.5).float()[None])[0] > dice
    for first in range(groups):
        for second in range(first + 1, groups):
            if bool(alike[first, second]):
                assigned[assigned == second] = first
    return without_gaps(assigned)


def without_gaps(assigned: torch.Tensor) -> torch.Tensor:
    """The same groups, numbered 0, 1, …"""
    return assigned.unique(return_inverse=True)[1]


def _far_apart(distances: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of up to `count` different points, the first in the middle, each next farthest from those taken."""
    taken = [int(distances.sum(dim=1).argmin())]
    nearest = distances[taken[0]].clone()
    while len(taken) < min(count, len(distances)):
        farthest = int(nearest.argmax())
        if float(nearest[farthest]) <= 0:
            break
        taken.append(farthest)
        nearest = torch.minimum(nearest, distances[farthest])
    return torch.tensor(taken, device=distances.device)
