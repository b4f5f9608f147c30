"""Measures are exact on answers known by hand, finite for any opinion, and the same however opinions arrive."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overread.domain import BadInputError, Opinions, OpinionSums, OverreadError, UncertaintyMap
from overread.domain.opinions import SMALLEST_PROBABILITY
from overread.uncertainty import MEASURES, measure
from overread.uncertainty.measures import most_even_votes

ALL = list(MEASURES)
LOG2 = math.log(2)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def of(name: str, *members: list[float], dtype: torch.dtype = torch.float64) -> float:
    """The measure at one voxel, each member a list over classes."""
    stack = torch.tensor(members, dtype=dtype)[..., None]
    return float(MEASURES[name](Opinions(stack).sums()).values)


def draw(members: int, classes: int, *space: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(members, classes, *space, generator=generator, dtype=torch.float64)
    return logits.mul(scale).softmax(dim=1)


def slowly(name: str, members: np.ndarray) -> float:
    """The definitions, one number after the other: members is (member, class) of one voxel."""
    count, classes = members.shape
    mean = [sum(float(p[c]) for p in members) / count for c in range(classes)]

    def entropy(p) -> float:
        return -sum(float(x) * math.log(float(x)) for x in p if x > 0)

    if name == "predictive_entropy":
        return entropy(mean)
    if name == "expected_entropy":
        return sum(entropy(p) for p in members) / count
    if name == "mutual_information":
        return entropy(mean) - sum(entropy(p) for p in members) / count
    if name == "variance":
        return sum((float(p[c]) - mean[c]) ** 2 for p in members for c in range(classes)) / count
    if name == "variation_ratio":
        votes = [int(np.argmax(p)) for p in members]
        return 1 - max(votes.count(c) for c in range(classes)) / count
    if name == "member_cross_entropy":
        crosses = [
            -sum(mean[c] * math.log(max(float(p[c]), SMALLEST_PROBABILITY)) for c in range(classes))
            for p in members
        ]
        return sum(crosses) / count
    raise AssertionError(f"no slow version of {name}: write one")


@st.composite
def opinions(draw_from, max_members: int = 5):
    """Members at a few voxels, float64, with zeros and ones among the probabilities."""
    shape = (draw_from(st.integers(1, max_members)), draw_from(st.integers(2, 4)), 3)
    weights = draw_from(
        arrays(np.float64, shape, elements=st.sampled_from([0.0, 1e-12, 1e-3, 0.2, 0.5, 1.0]))
    )
    # Where all weights of a voxel are 0, the member is certain of the background.
    weights[:, 0][weights.sum(axis=1) == 0] = 1.0
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True))


# --- answers known by hand ---------------------------------------------------------------------------------------

SURE_AND_SPLIT = ([1.0, 0.0], [0.0, 1.0])
UNSURE_AND_AGREED = ([0.5, 0.5], [0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "members", "expected"),
    [
        ("predictive_entropy", SURE_AND_SPLIT, LOG2),
        ("predictive_entropy", UNSURE_AND_AGREED, LOG2),
        ("predictive_entropy", ([0.25] * 4,), math.log(4)),
        ("expected_entropy", SURE_AND_SPLIT, 0.0),
        ("expected_entropy", UNSURE_AND_AGREED, LOG2),
        ("expected_entropy", ([1.0, 0.0], [0.5, 0.5]), LOG2 / 2),
        ("mutual_information", SURE_AND_SPLIT, LOG2),
        ("mutual_information", UNSURE_AND_AGREED, 0.0),
        ("mutual_information", ([0.9, 0.1], [0.1, 0.9]), LOG2 + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)),
        ("variance", SURE_AND_SPLIT, 0.5),
        ("variance", ([0.9, 0.1], [0.1, 0.9]), 0.32),
        ("variance", UNSURE_AND_AGREED, 0.0),
        ("variation_ratio", SURE_AND_SPLIT, 0.5),
        ("variation_ratio", ([0.6, 0.4], [0.9, 0.1], [0.4, 0.6]), 1 / 3),
        ("variation_ratio", ([0.6, 0.4], [0.9, 0.1]), 0.0),
        ("member_cross_entropy", UNSURE_AND_AGREED, LOG2),
        # -(1/2)(log 1e-8)/2 for each of the two classes.
        ("member_cross_entropy", SURE_AND_SPLIT, -math.log(1e-8) / 2),
        # mean (.5, .5): -(log .9 + log .1) / 2, the same for both members.
        ("member_cross_entropy", ([0.9, 0.1], [0.1, 0.9]), -(math.log(0.9) + math.log(0.1)) / 2),
    ],
)
def test_known_answers(name, members, expected):
    assert of(name, *members) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_is_zero_where_all_members_are_certain_of_the_same_class(name):
    assert of(name, [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]) == 0


@pytest.mark.parametrize("name", ["mutual_information", "variance", "variation_ratio"])
def test_disagreement_is_zero_when_members_share_the_same_doubt(name):
    assert of(name, [0.3, 0.7], [0.3, 0.7], [0.3, 0.7], dtype=torch.float32) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_is_the_predictive_entropy_when_members_say_the_same():
    member = [0.2, 0.5, 0.3]
    assert of("member_cross_entropy", member, member) == pytest.approx(
        of("predictive_entropy", member, member)
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-6)]
)
def test_agrees_with_the_definition_written_out(name, dtype, tolerance):
    stack = draw(5, 4, 7, 6, seed=3).to(dtype)
    values = MEASURES[name](Opinions(stack).sums()).values
    # The half precision opinions are what they are: the sums over them must not be rounded once more.
    literal = stack.double().numpy()
    for i, j in np.ndindex(7, 6):
        assert float(values[i, j]) == pytest.approx(slowly(name, literal[:, :, i, j]), abs=tolerance)


# --- the contract of every measure in the registry ---------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    entry = MEASURES[name]
    assert entry.name == name
    assert entry.unit in {"nat", "1"}
    assert entry.description.endswith(".")
    assert len(entry.description) > 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_is_finite_and_within_its_bounds_for_certain_members_of_any_precision(name, dtype):
    certain = torch.eye(3, dtype=dtype)[:, :, None]
    for stack in (certain, certain[:1], certain[[0, 0, 1]], draw(4, 3, 50, scale=200).to(dtype)):
        field = MEASURES[name](Opinions(stack).sums())
        assert isinstance(field, UncertaintyMap)
        assert field.values.shape == stack.shape[2:]
        assert field.upper == MEASURES[name].upper(len(stack), 3)
        assert bool(torch.isfinite(field.values).all())
        assert float(field.values.min()) >= 0
        assert float(field.values.max()) <= field.upper + 1e-6


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40, deadline=None)
@given(stack=opinions())
def test_stays_within_its_bounds(name, stack):
    # Without the clamp: the bound is the quantity's own, not one that is forced on it.
    values = MEASURES[name].values(Opinions(stack).sums())
    upper = MEASURES[name].upper(*stack.shape[:2])
    assert float(values.min()) >= -1e-12
    assert float(values.max()) <= upper + 1e-12


@pytest.mark.parametrize(("members", "classes"), [(1, 3), (2, 2), (3, 2), (5, 3), (3, 5)])
@pytest.mark.parametrize("name", ["mutual_information", "variance", "variation_ratio"])
def test_the_upper_bound_is_reached_by_votes_spread_as_evenly_as_possible(name, members, classes):
    votes = torch.eye(classes, dtype=torch.float64)[[m % classes for m in range(members)]]
    value = float(MEASURES[name](Opinions(votes[..., None]).sums()).values)
    assert value == pytest.approx(MEASURES[name].upper(members, classes), abs=1e-12)


def test_votes_are_spread_evenly():
    assert most_even_votes(5, 3) == [0.4, 0.4, 0.2]
    assert most_even_votes(2, 3) == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(stack=opinions(), seed=st.integers(0, 100))
def test_the_order_of_members_does_not_matter(name, stack, seed):
    order = torch.randperm(len(stack), generator=torch.Generator().manual_seed(seed))
    there, back = (MEASURES[name](Opinions(s).sums()).values for s in (stack, stack[order]))
    torch.testing.assert_close(there, back, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(stack=opinions(max_members=3), copies=st.integers(2, 4))
def test_hearing_each_member_several_times_changes_nothing(name, stack, copies):
    once, often = (MEASURES[name](Opinions(s).sums()).values for s in (stack, stack.repeat(copies, 1, 1)))
    torch.testing.assert_close(once, often, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_streaming_gives_what_all_at_once_gives(name):
    stack = draw(5, 3, 4, 5, 6)
    sums = OpinionSums()
    for member in stack:
        sums.add(member)
    assert torch.equal(MEASURES[name](sums).values, MEASURES[name](Opinions(stack).sums()).values)


@pytest.mark.parametrize("name", ALL)
def test_does_not_change_the_sums(name):
    sums = Opinions(draw(3, 3, 5)).sums()
    before = {key: value.clone() for key, value in vars(sums).items() if isinstance(value, torch.Tensor)}
    MEASURES[name](sums)
    assert sums.members == 3
    assert len(before) == 5
    assert all(torch.equal(getattr(sums, key), value) for key, value in before.items())


@pytest.mark.parametrize("name", ALL)
def test_needs_a_member(name):
    with pytest.raises(BadInputError, match=f"{name} needs the opinion of at least one member, got none"):
        MEASURES[name](OpinionSums())


@pytest.mark.parametrize("name", sorted(set(ALL) - {"variation_ratio"}))
def test_refuses_opinions_that_are_not_finite(name):
    sums = OpinionSums.over([torch.tensor([[float("nan")], [0.5]])])
    with pytest.raises(OverreadError, match="were the opinions finite"):
        MEASURES[name](sums)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpu_says_the_same_as_the_processor(name, dtype):
    stack = draw(5, 3, 16, 17, 18).to(dtype)
    there = MEASURES[name](Opinions(stack.cuda()).sums()).values
    assert there.is_cuda
    torch.testing.assert_close(
        there.cpu(), MEASURES[name](Opinions(stack).sums()).values, atol=2e-6, rtol=1e-5
    )


# --- laws between measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(stack=opinions())
def test_cross_entropy_bounds_entropy_which_bounds_mutual_information(dtype, stack):
    sums = Opinions(stack.to(dtype)).sums()
    cross, entropy, information = (
        MEASURES[name](sums).values
        for name in ("member_cross_entropy", "predictive_entropy", "mutual_information")
    )
    assert bool((cross >= entropy).all())
    assert bool((entropy >= information).all())
    assert bool((information >= 0).all())


def test_entropy_splits_into_expected_entropy_and_mutual_information():
    sums = Opinions(draw(5, 3, 40)).sums()
    total, own, between = (
        MEASURES[name](sums).values
        for name in ("predictive_entropy", "expected_entropy", "mutual_information")
    )
    torch.testing.assert_close(total, own + between)


def test_one_member_alone_disagrees_with_nobody():
    sums = Opinions(draw(1, 3, 40)).sums()
    assert float(MEASURES["mutual_information"](sums).values.max()) == 0
    assert float(MEASURES["variation_ratio"](sums).values.max()) == 0
    torch.testing.assert_close(
        MEASURES["member_cross_entropy"](sums).values, MEASURES["expected_entropy"](sums).values
    )


def test_a_measure_is_one_function_with_a_decorator_and_a_name_is_given_once():
    with pytest.raises(ValueError, match="measure 'variance' is registered twice"):

        @measure(unit="1", upper=lambda members, classes: 1.0)
        def variance(sums: OpinionSums) -> torch.Tensor:
            """Another variance."""
            return sums.squares
