"""Disagreement between members is one minus their mean pairwise Dice, however the volume is cut into blocks."""

from itertools import combinations

import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.uncertainty import AgreementCounts, agreement


def disagreement(maps, classes: int = 2) -> float:
    counts = AgreementCounts(len(maps), classes)
    counts.add(np.asarray(maps, dtype=np.uint8))
    return counts.pairwise_dice_disagreement()


def test_two_members_of_which_one_draws_half_of_the_other():
    # |A| = 4, |B| = 2, overlap 2: Dice 4/6.
    assert disagreement([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]) == pytest.approx(1 / 3)


def test_members_that_draw_the_same_agree():
    assert disagreement([[0, 1, 2], [0, 1, 2], [0, 1, 2]], classes=3) == 0


def test_members_that_share_no_voxel_disagree_fully():
    assert disagreement([[1, 0, 0], [0, 1, 0]]) == 1


def test_is_the_mean_over_pairs():
    # Pairs: (A, A') Dice 1, (A, B) 0, (A', B) 0.
    assert disagreement([[1, 0], [1, 0], [0, 1]]) == pytest.approx(2 / 3)


def test_is_the_mean_over_classes_that_somebody_draws():
    # Class 1: Dice 1. Class 2: nobody draws it. Class 3: Dice 0.
    assert disagreement([[1, 3, 0], [1, 0, 3]], classes=4) == pytest.approx(1 / 2)


def test_a_pair_that_agrees_on_absence_counts_as_agreement():
    # Pairs: two empty members Dice 1, each with the third 0.
    assert disagreement([[0, 0], [0, 0], [1, 0]]) == pytest.approx(2 / 3)


def test_nobody_draws_anything():
    assert disagreement([[0, 0], [0, 0]]) == 0


def test_one_member_agrees_with_itself():
    assert disagreement([[0, 1]]) == 0


def test_a_member_who_draws_a_speck_draws_nothing():
    counts = AgreementCounts(3, 3)
    # Class 1: a speck of one member. Class 2: two members share 3 of 4 voxels, the third draws a speck of it.
    counts.add(torch.tensor([[0, 1, 2, 2, 2, 2, 0, 0], [0, 0, 0, 2, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0, 2]]))
    assert counts.pairwise_dice_disagreement(2) == pytest.approx(1 - (3 / 4 + 0 + 0) / 3)
    # As it is: class 1 has Dice 0, 0 and 1.
    plain = 1 - ((0 + 0 + 1) / 3 + (3 / 4 + 0 + 0) / 3) / 2
    assert counts.pairwise_dice_disagreement() == pytest.approx(plain)
    assert counts.pairwise_dice_disagreement(5) == 0


def test_agrees_with_sets_of_voxels_compared_pair_by_pair():
    maps = np.random.default_rng(0).integers(0, 4, (5, 6, 7, 8))
    dices = []
    for first, second in combinations(maps, 2):
        for index in (1, 2, 3):
            a, b = (set(np.flatnonzero(m == index)) for m in (first, second))
            dices.append(2 * len(a & b) / (len(a) + len(b)))
    assert disagreement(maps, classes=4) == pytest.approx(1 - np.mean(dices), abs=1e-12)


@pytest.mark.parametrize("cuts", [[8], [1, 7], [3, 3, 2], [1] * 8])
def test_slab_by_slab_is_the_same_as_all_at_once(cuts):
    maps = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (4, 5, 6, 8)))
    counts = AgreementCounts(4, 3)
    for slab in maps.split(cuts, dim=-1):
        counts.add(slab)
    assert counts.pairwise_dice_disagreement() == disagreement(maps, classes=3)


def test_large_blocks_are_counted_in_pieces_exactly(monkeypatch):
    maps = np.random.default_rng(2).integers(0, 3, (3, 1000))
    expected = disagreement(maps, classes=3)
    monkeypatch.setattr(agreement, "VOXELS_AT_ONCE", 7)
    assert disagreement(maps, classes=3) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_takes_labels_of_any_integer_type_read_only_and_flipped(dtype):
    maps = np.array([[1, 1, 0], [0, 1, 1]], dtype=dtype)
    maps.setflags(write=False)
    counts = AgreementCounts(2, 2)
    counts.add(maps[:, ::-1])
    assert counts.pairwise_dice_disagreement() == pytest.approx(0.5)


def test_an_empty_block_adds_nothing():
    counts = AgreementCounts(2, 2)
    counts.add(np.zeros((2, 0, 4), dtype=np.uint8))
    with pytest.raises(BadInputError, match="no label maps were added"):
        counts.pairwise_dice_disagreement()


def test_refuses_another_number_of_members():
    with pytest.raises(BadInputError, match=r"\(member, \*space\) with 3 members, got \(2, 4\)"):
        AgreementCounts(3, 2).add(np.zeros((2, 4), dtype=np.uint8))


@pytest.mark.parametrize("value", [-1, 2])
def test_refuses_a_class_that_does_not_exist(value):
    with pytest.raises(BadInputError, match=r"expected 0\.\.1"):
        AgreementCounts(2, 2).add(np.array([[0, value], [0, 0]]))


def test_refuses_probabilities():
    with pytest.raises(
        BadInputError, match=r"agreement between members needs class numbers, got torch\.float32"
    ):
        AgreementCounts(2, 2).add(torch.zeros(2, 4))


@pytest.mark.parametrize(("members", "classes"), [(0, 2), (2, 1)])
def test_refuses_to_compare_nobody_or_nothing(members, classes):
    with pytest.raises(BadInputError, match="at least 1 member and 2 classes"):
        AgreementCounts(members, classes)
