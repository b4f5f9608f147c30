"""Opinions are checked once; their sums are the same however they arrive, and keep no member."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overread.domain import BadInputError, Opinions, OpinionSums, first_choice
from overread.domain.opinions import SMALLEST_PROBABILITY, check_probabilities, working_dtype

FIELDS = ("probability", "log_probability", "votes", "entropy", "squares")


def draw(members: int, classes: int, *space: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, classes, *space, generator=generator).mul(3).softmax(dim=1)


def test_the_mean_is_that_of_the_members():
    opinions = Opinions(torch.tensor([[[1.0], [0.0]], [[0.5], [0.5]]]))
    assert opinions.mean.tolist() == [[0.75], [0.25]]
    assert [member.tolist() for member in opinions] == [[[1.0], [0.0]], [[0.5], [0.5]]]


def test_sums_of_two_members_are_those_on_paper():
    sums = Opinions(torch.tensor([[[1.0], [0.0]], [[0.5], [0.5]]])).sums()
    half, least = torch.tensor(0.5).log(), torch.tensor(SMALLEST_PROBABILITY).log()
    assert sums.members == 2
    assert sums.classes == 2
    assert sums.probability.flatten().tolist() == [1.5, 0.5]
    torch.testing.assert_close(sums.log_probability.flatten(), torch.stack([half, least + half]))
    assert sums.votes.flatten().tolist() == [2, 0], "a tie goes to the lower class"
    torch.testing.assert_close(sums.entropy, torch.tensor([2.0]).log())
    assert sums.squares.tolist() == [1.5]
    assert sums.mean.flatten().tolist() == [0.75, 0.25]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 4), st.integers(0, 1000))
def test_members_one_by_one_say_the_same_as_all_at_once(members, classes, seed):
    stack = draw(members, classes, 3, 2, seed=seed).double()
    streamed = OpinionSums()
    for member in stack:
        streamed.add(member)
    at_once = Opinions(stack).sums()
    expected = {
        "probability": stack.sum(0),
        "log_probability": stack.clamp_min(SMALLEST_PROBABILITY).log().sum(0),
        "votes": torch.nn.functional.one_hot(stack.argmax(1), classes).sum(0).movedim(-1, 0).double(),
        "entropy": torch.special.entr(stack).sum((0, 1)),
        "squares": stack.square().sum((0, 1)),
    }
    for field in FIELDS:
        torch.testing.assert_close(getattr(streamed, field), expected[field])
        torch.testing.assert_close(getattr(at_once, field), expected[field])


def test_no_member_is_kept_and_memory_does_not_grow_with_their_number():
    sums, seen = OpinionSums(), []
    sizes = []
    for index in range(12):
        member = draw(1, 3, 8, 8, seed=index)[0].clone()
        seen.append((weakref.ref(member), member.untyped_storage().data_ptr()))
        sums.add(member)
        fields = [getattr(sums, name) for name in FIELDS]
        assert all(f.untyped_storage().data_ptr() != seen[-1][1] for f in fields), "a view of the member"
        sizes.append(sum(f.untyped_storage().nbytes() for f in fields))
        del member, fields
    gc.collect()
    assert all(reference() is None for reference, _ in seen)
    # Three fields of (class, *space) and two of (*space), float32.
    assert set(sizes) == {(3 * 3 + 2) * 8 * 8 * 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adding_does_not_change_the_argument(dtype):
    first, second = draw(2, 3, 4).to(dtype)
    copies = first.clone(), second.clone()
    sums = OpinionSums()
    sums.add(first)
    sums.add(second)
    assert torch.equal(first, copies[0])
    assert torch.equal(second, copies[1])


def test_half_precision_is_summed_in_float32_and_double_stays_double():
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ):
        tensor = draw(2, 3, 4).to(dtype)
        assert working_dtype(tensor) == expected
        sums = Opinions(tensor).sums()
        assert {getattr(sums, name).dtype for name in FIELDS} == {expected}
        assert Opinions(tensor).mean.dtype == expected


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 4), (2, 1, 4)])
def test_refuses_a_shape_without_members_classes_or_space(shape):
    with pytest.raises(BadInputError, match=r"opinions are \(member, class, \*space\)"):
        Opinions(torch.ones(shape))


def test_names_the_member_that_returned_logits():
    stack = draw(3, 2, 4)
    stack[1] = torch.tensor([[2.0], [-1.5]])
    with pytest.raises(
        BadInputError, match=r"member 1 sums to 0\.50\.\.0\.50 over classes, expected 1; did the network"
    ):
        Opinions(stack)


def test_names_the_member_with_negative_probabilities():
    stack = draw(2, 2, 4)
    stack[0] = torch.tensor([[1.5], [-0.5]])
    with pytest.raises(BadInputError, match="member 0 sums to"):
        Opinions(stack)


def test_names_the_member_that_is_not_finite():
    stack = draw(3, 2, 4)
    stack[2, 0, 0] = float("nan")
    with pytest.raises(BadInputError, match="member 2 holds values that are not finite"):
        Opinions(stack)


def test_opinions_about_no_voxel_are_fine():
    check_probabilities(torch.empty(3, 0), "an empty block")
    assert Opinions(torch.empty(2, 3, 0)).mean.shape == (3, 0)


def test_refuses_an_ensemble_without_members():
    with pytest.raises(BadInputError, match="at least one member, got none"):
        OpinionSums.over([])


def test_names_the_member_that_speaks_about_something_else():
    with pytest.raises(BadInputError, match=r"member 1 speaks about \(2, 5\), the others about \(2, 4\)"):
        OpinionSums.over([draw(1, 2, 4)[0], draw(1, 2, 5)[0]])


def test_the_first_choice_is_the_largest_and_of_equal_ones_the_lower():
    values = torch.tensor([[0.2, 0.4, 0.1, 0.3], [0.2, 0.1, 0.5, 0.3], [0.1, 0.4, 0.5, 0.4]])
    assert first_choice(values).tolist() == [0, 0, 1, 2]
    assert first_choice(values.T, dim=1).tolist() == [0, 0, 1, 2]
    assert first_choice(values).dtype == torch.uint8


def test_the_first_choice_is_what_argmax_says_also_of_more_classes_than_a_byte_counts():
    values = torch.randn(300, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first_choice(values).long(), values.argmax(dim=0))
