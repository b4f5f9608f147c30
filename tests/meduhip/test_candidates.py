"""What a clinician is offered: groups of samples with their support, and where they differ."""

import pytest
import torch

from overread.meduhip.candidates import (
    in_words,
    possible_box,
    propose,
    propose_from_logits,
    telling_voxels,
)


def squares(*corners: tuple[int, int], shape: tuple[int, int] = (20, 24)) -> torch.Tensor:
    """Probabilities of 6 x 6 squares."""
    masks = torch.full((len(corners), *shape), 0.01)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[x : x + 6, y : y + 6] = 0.99
    return masks


UPPER, LOWER = (1, 2), (10, 12)


def test_box_holds_whatever_a_sample_finds_possible():
    probabilities = torch.zeros(2, 8, 9)
    probabilities[0, 2, 3] = 0.06
    probabilities[1, 5, 7] = 0.9
    probabilities[1, 7, 8] = 0.05
    assert possible_box(probabilities) == (slice(2, 6), slice(3, 8))


def test_box_of_a_volume():
    probabilities = torch.zeros(1, 4, 5, 6)
    probabilities[0, 1, 2, 3:5] = 1
    assert possible_box(probabilities) == (slice(1, 2), slice(2, 3), slice(3, 5))


def test_box_is_everything_where_nothing_is_possible():
    assert possible_box(torch.zeros(3, 4, 5)) == (slice(None), slice(None))


def test_groups_come_with_their_support_the_largest_first():
    candidates = propose(squares(UPPER, LOWER, LOWER, LOWER), groups=3)
    assert [c.support for c in candidates] == pytest.approx([0.75, 0.25])
    assert [c.members.tolist() for c in candidates] == [
        [False, True, True, True],
        [True, False, False, False],
    ]


def test_logits_are_grouped_as_their_probabilities_are():
    logits = torch.randn(6, 20, 70, 12, generator=torch.Generator().manual_seed(0)) - 6
    logits[:4, 5:12, 3:68, 2:9] += 12
    logits[4:, 8:15, 3:40, 2:9] += 12
    found, expected = propose_from_logits(logits, 3), propose(logits.sigmoid(), 3)
    assert [(c.medoid, c.support, c.members.tolist()) for c in found] == [
        (c.medoid, c.support, c.members.tolist()) for c in expected
    ]
    assert len(found) == 2


def test_what_is_shown_is_a_member():
    probabilities = torch.rand(12, 9, 9, generator=torch.Generator().manual_seed(0))
    candidates = propose(probabilities, groups=4)
    assert 1 <= len(candidates) <= 4
    assert all(bool(c.members[c.medoid]) for c in candidates)
    assert sum(c.members.long() for c in candidates).amax() == 1
    supports = [c.support for c in candidates]
    assert supports == sorted(supports, reverse=True)
    assert sum(supports) <= 1 + 1e-6


def test_samples_that_look_the_same_are_one_candidate():
    (candidate,) = propose(squares(UPPER, UPPER, UPPER), groups=3)
    assert candidate.support == pytest.approx(1)
    assert bool(candidate.members.all())


def test_one_sample_is_one_candidate():
    (candidate,) = propose(squares(UPPER), groups=4)
    assert (candidate.medoid, candidate.support) == (0, 1)


def test_samples_can_weigh_differently():
    first, second = propose(squares(UPPER, LOWER, LOWER), groups=2, weights=[0.8, 0.1, 0.1])
    assert (first.medoid, first.support) == (0, pytest.approx(0.8))
    assert second.support == pytest.approx(0.2)


def test_a_group_with_next_to_no_support_is_not_shown():
    candidates = propose(squares(UPPER, LOWER), groups=2, weights=[0.99, 0.01])
    assert [c.medoid for c in candidates] == [0]


def test_one_candidate_is_shown_however_little_supports_it():
    assert len(propose(squares(UPPER, LOWER), groups=2, weights=[0.01, 0.01])) == 1


def test_nothing_anywhere_is_a_candidate():
    (candidate,) = propose(torch.zeros(4, 8, 8), groups=3)
    assert candidate.support == pytest.approx(1)


def test_large_pictures_and_volumes_are_grouped_alike():
    picture = squares(UPPER, LOWER, LOWER).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    volume = squares(UPPER, LOWER, LOWER)[..., None].expand(-1, -1, -1, 60)
    for probabilities in (picture, volume):
        assert [c.members.tolist() for c in propose(probabilities, groups=2)] == [
            [False, True, True],
            [True, False, False],
        ]


@pytest.mark.parametrize("clustering", ["kmeans", "kmedoids"])
def test_either_clustering_can_be_named(clustering):
    assert len(propose(squares(UPPER, LOWER), 2, clustering)) == 2


def test_the_most_telling_voxel_is_where_the_others_say_otherwise():
    probabilities = torch.full((3, 5, 6), 0.5)
    probabilities[0, 1, 4] = 1.0
    probabilities[1:, 1, 4] = 0.0
    probabilities[0, 3, 2] = 0.1
    places = telling_voxels(probabilities, torch.tensor([True, False, False]), 2)
    assert places.tolist() == [[1, 4], [3, 2]]


def test_a_candidate_of_all_samples_is_told_by_what_it_is_least_sure_of():
    probabilities = torch.full((2, 3, 3, 3), 0.9)
    probabilities[:, 0, 1, 2] = torch.tensor([0.4, 0.6])
    places = telling_voxels(probabilities, torch.tensor([True, True]), 1)
    assert places.tolist() == [[0, 1, 2]]


def test_there_are_no_more_telling_voxels_than_voxels():
    assert telling_voxels(torch.rand(2, 2, 3), torch.tensor([True, False]), 20).shape == (6, 2)


@pytest.mark.parametrize(
    ("added", "removed", "words"),
    [
        (2.1, 0.3, "+2.1 mL, −0.3 mL"),
        (0.0, 12.0, "−12 mL"),
        (0.006, 0.0, "+0.006 mL"),
        (0.004, 0.004, "the same"),
        (123.4, 99.7, "+123 mL, −100 mL"),
    ],
)
def test_difference_is_told_in_volumes(added, removed, words):
    assert in_words(added, removed) == words


def test_difference_in_another_unit():
    assert in_words(1530, 0, unit="px") == "+1530 px"
