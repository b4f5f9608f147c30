"""Masks that resemble each other come into one group, the same ones every time."""

from itertools import product

import pytest
import torch

from overread.domain import NotFoundError
from overread.meduhip.clustering import CLUSTERERS, kmeans, kmedoids, medoid_of, merge_alike, without_gaps
from overread.meduhip.vote import pairwise_dice


def rectangles(*corners: tuple[int, int]) -> torch.Tensor:
    """4 x 4 squares in 16 x 16 pictures."""
    masks = torch.zeros(len(corners), 16, 16)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[x : x + 4, y : y + 4] = 1
    return masks


THREE_PLACES = rectangles((0, 0), (10, 10), (0, 1), (10, 0), (11, 10), (10, 1), (1, 0))
GROUPS_OF_THREE_PLACES = {frozenset({0, 2, 6}), frozenset({1, 4}), frozenset({3, 5})}


def partition(assigned: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((assigned == group).nonzero().flatten().tolist()) for group in assigned.unique()}


def inertia(masks: torch.Tensor, assigned: torch.Tensor) -> float:
    """Sum of squared distances to the mean of the own group."""
    values = masks.flatten(1).double()
    return sum(
        float(((values[assigned == group] - values[assigned == group].mean(dim=0)) ** 2).sum())
        for group in assigned.unique()
    )


def medoid_cost(distances: torch.Tensor, assigned: torch.Tensor) -> float:
    """Sum of distances to the medoid of the own group."""
    total = 0.0
    for group in assigned.unique():
        members = assigned == group
        total += float(distances[medoid_of(distances, members), members].sum())
    return total


def all_assignments(count: int, groups: int) -> list[torch.Tensor]:
    return [torch.tensor(a) for a in product(range(groups), repeat=count) if len(set(a)) == groups]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# both


@pytest.mark.parametrize("name", CLUSTERERS)
def test_masks_at_three_places_are_three_groups(name):
    assert partition(CLUSTERERS[name](THREE_PLACES, 3)) == GROUPS_OF_THREE_PLACES


@pytest.mark.parametrize("name", CLUSTERERS)
def test_the_same_masks_give_the_same_groups(name):
    masks = noise(12, 6, 6)
    before = masks.clone()
    assert torch.equal(CLUSTERERS[name](masks, 4), CLUSTERERS[name](masks, 4))
    assert torch.equal(masks, before)


@pytest.mark.parametrize("name", CLUSTERERS)
def test_masks_that_are_all_the_same_are_one_group(name):
    masks = rectangles((2, 2)).expand(5, -1, -1)
    assert CLUSTERERS[name](masks, 3).tolist() == [0] * 5


@pytest.mark.parametrize("name", CLUSTERERS)
@pytest.mark.parametrize("groups", [1, 3, 9])
def test_there_are_at_most_as_many_groups_as_asked_for_or_masks(name, groups):
    numbers = CLUSTERERS[name](noise(5, 4, 4), groups).unique()
    assert len(numbers) <= min(groups, 5)
    assert numbers.tolist() == list(range(len(numbers)))


@pytest.mark.parametrize("name", CLUSTERERS)
def test_distinct_soft_masks_have_a_group_each_if_there_are_enough(name):
    # A soft mask overlaps a crisper one more than itself; it is at no distance from itself all the same.
    masks = torch.stack([torch.full((6, 6), value) for value in (0.3, 0.4, 0.5)])
    assert len(partition(CLUSTERERS[name](masks, 3))) == 3


@pytest.mark.parametrize("name", CLUSTERERS)
def test_volumes_are_grouped_as_pictures_are(name):
    volumes = THREE_PLACES[..., None].expand(-1, -1, -1, 3)
    assert partition(CLUSTERERS[name](volumes, 3)) == GROUPS_OF_THREE_PLACES


def test_an_unknown_clustering_is_named():
    with pytest.raises(NotFoundError, match="no clustering is called 'spectral'; there are kmeans, kmedoids"):
        CLUSTERERS["spectral"]


# k-means


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_is_near_the_best_of_all_assignments(seed):
    masks = noise(7, 2, 2, seed=seed)
    best = min(inertia(masks, assigned) for assigned in all_assignments(7, 2))
    assert best * (1 - 1e-6) <= inertia(masks, kmeans(masks, 2)) <= 1.5 * best


def test_kmeans_leaves_every_mask_with_its_nearest_mean():
    masks = noise(20, 3, 3)
    assigned = kmeans(masks, 3)
    values = masks.flatten(1)
    means = torch.stack([values[assigned == group].mean(dim=0) for group in range(3)])
    assert torch.equal(torch.cdist(values, means).argmin(dim=1), assigned)


def test_kmeans_has_the_inertia_of_scikit_learn_where_groups_are_clear():
    cluster = pytest.importorskip("sklearn.cluster")
    masks = THREE_PLACES + 0.1 * noise(7, 16, 16)
    reference = cluster.KMeans(3, n_init=10, random_state=0).fit(masks.flatten(1).numpy())
    assert inertia(masks, kmeans(masks, 3)) == pytest.approx(reference.inertia_, rel=1e-4)


# k-medoids


def test_a_medoid_is_the_member_with_the_least_sum_of_distances():
    # On a line at 0, 1, 3 and 100: among the first three it is the one at 1; the last is no member.
    at = torch.tensor([0.0, 1.0, 3.0, 100.0])
    distances = (at[:, None] - at).abs()
    assert int(medoid_of(distances, torch.tensor([True, True, True, False]))) == 1
    assert int(medoid_of(distances, torch.tensor([False, False, True, True]))) == 2
    assert int(medoid_of(distances, torch.tensor([False, False, False, True]))) == 3


def test_a_medoid_is_a_member_even_where_another_is_nearer_to_all():
    # The centre of a triangle with sides of 2, and its corners.
    at = torch.tensor([[0.0, 0.577], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.732]])
    assert int(medoid_of(torch.cdist(at, at), torch.tensor([False, True, True, True]))) in (1, 2, 3)


@pytest.mark.parametrize("seed", range(5))
def test_kmedoids_is_near_the_best_of_all_assignments(seed):
    masks = (noise(7, 4, 4, seed=seed) > 0.5).float()
    distances = 1 - pairwise_dice(masks[None])[0]
    best = min(medoid_cost(distances, assigned) for assigned in all_assignments(7, 2))
    assert best * (1 - 1e-6) <= medoid_cost(distances, kmedoids(masks, 2)) <= 1.25 * best + 1e-6


# what looks the same


def test_groups_that_look_the_same_are_joined():
    masks = rectangles((0, 0), (8, 8), (0, 0), (8, 8))
    assert merge_alike(masks, torch.tensor([0, 1, 2, 3])).tolist() == [0, 1, 0, 1]


def test_groups_that_differ_stay_apart():
    # A Dice of (2 * 12 + 1) / 33.
    masks = rectangles((0, 0), (0, 1))
    assigned = torch.tensor([0, 1])
    assert merge_alike(masks, assigned).tolist() == [0, 1]
    assert merge_alike(masks, assigned, dice=0.7).tolist() == [0, 0]
    assert assigned.tolist() == [0, 1]


def test_groups_with_the_same_soft_border_look_the_same():
    # Of a ring that is as unsure in both groups the Dice with itself is far below 1.
    masks = 0.6 * rectangles((4, 4), (4, 4), (4, 4))
    assert merge_alike(masks, torch.tensor([0, 1, 1])).tolist() == [0, 0, 0]


def test_numbers_without_gaps_keep_the_groups():
    assert without_gaps(torch.tensor([7, 2, 7, 5])).tolist() == [2, 0, 2, 1]
