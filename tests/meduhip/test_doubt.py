"""Style, within and members are variances that add up to the total, each 0 where there is none of its kind."""

from __future__ import annotations

import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.doubt import (
    PARTS,
    case_scores,
    doubt_facts,
    largest_part,
    samples_of,
    split_doubt,
    splits_of,
)
from support.known_meduhip import RADII, known_reader, picture

SHAPE = (5, 4)


def field(value: float) -> torch.Tensor:
    return torch.full(SHAPE, value, dtype=torch.float64)


def test_the_parts_add_up_to_the_variance_of_the_foreground():
    generator = torch.Generator().manual_seed(0)
    # Components with different numbers of samples; models with different numbers of components.
    counts = [[3, 1, 4], [2, 2], [5]]
    models = []
    for of_model in counts:
        samples = torch.rand(sum(of_model), *SHAPE, generator=generator, dtype=torch.float64)
        components = [m for m, count in enumerate(of_model) for _ in range(count)]
        models.append(list(zip(components, samples, strict=True)))
    split = split_doubt(models)
    mean = torch.stack([torch.stack([p for _, p in samples]).mean(dim=0) for samples in models]).mean(dim=0)
    assert torch.allclose(split.style + split.within + split.members, mean * (1 - mean), atol=1e-14, rtol=0)
    assert torch.allclose(split.total, mean * (1 - mean), atol=1e-14, rtol=0)
    for name in PARTS:
        values = PARTS[name](split).values
        assert float(values.min()) >= 0
        assert float(values.max()) <= 0.25


def test_certain_components_that_differ_are_style_alone():
    split = split_doubt([[(0, field(0)), (1, field(1)), (0, field(0)), (1, field(1))]])
    assert torch.equal(split.style, field(0.25))
    assert not split.within.any()
    assert not split.members.any()


def test_a_component_that_is_undecided_is_doubt_within():
    for undecided in ([(0, field(0.5))], [(0, field(0)), (0, field(1))]):
        split = split_doubt([undecided])
        assert torch.equal(split.within, field(0.25))
        assert not split.style.any()


def test_models_that_differ_are_doubt_between_members():
    split = split_doubt([[(0, field(0)), (1, field(0))], [(0, field(1))]])
    assert torch.equal(split.members, field(0.25))
    assert not split.style.any()
    assert not split.within.any()


def test_one_model_has_no_doubt_between_members():
    one = case_scores([split_doubt([[(0, field(0.8)), (1, field(0.6))]])])
    assert one["members"] == 0
    assert one["within"] > one["style"] == pytest.approx(0.01)
    two = case_scores([split_doubt([[(0, field(0.9))], [(0, field(0.5))]])])
    assert two["members"] == pytest.approx(0.04)


def test_parts_of_several_structures_are_summed():
    one = split_doubt([[(0, field(0)), (1, field(1))]])
    other = split_doubt([[(0, field(0.5))]])
    scores = case_scores([one, other])
    assert scores == {"style": pytest.approx(0.25), "within": pytest.approx(0.25), "members": 0}
    style = PARTS["style"](one, one)
    assert torch.equal(style.values, field(0.5))
    assert style.upper == 0.5


def test_the_largest_part_says_what_it_asks_for():
    style = largest_part({"style": 0.2, "within": 0.1, "members": 0.0})
    assert style is PARTS["style"]
    assert style.words == "doubt mostly of style: ask a person"
    models = largest_part({"style": 0.1, "within": 0.1, "members": 0.2})
    assert models is not None
    assert models.words == "doubt mostly between models: ask for a label"
    assert largest_part({}) is None
    assert largest_part({"style": 0.0, "within": 0.0, "members": 0.0}) is None


def test_a_program_is_told_the_parts_and_that_one_network_has_no_doubt_between_members():
    facts = doubt_facts({"style": 0.1, "within": 0.2, "members": 0.0})
    assert facts is not None
    assert facts["parts"] == {"style": 0.1, "within": 0.2, "members": 0.0}
    assert (facts["asks"], facts["words"]) == ("nothing", PARTS["within"].words)
    assert "`members` is 0 where there is one network" in facts["meaning"]["networks"]
    assert doubt_facts({}) is None
    none = doubt_facts(dict.fromkeys(PARTS, 0.0))
    assert none is not None
    assert (none["asks"], none["words"]) == ("nothing", "no doubt")


def test_the_parts_say_whom_to_ask():
    assert {name: PARTS[name].asks for name in PARTS} == {
        "style": "person",
        "within": "nothing",
        "members": "label",
    }


def test_a_model_whose_components_draw_other_discs_doubts_the_ring_between_them():
    opened = known_reader().open(picture())
    split = split_doubt([list(samples_of(opened))])
    assert split.style.shape == (32, 32)
    # Two of four components reach a radius of 7.
    assert float(split.style[16, 16 + 7]) > 0.1
    assert float(split.style[16, 16]) < 0.01
    assert float(split.style[0, 0]) < 0.01
    other = known_reader([radius + 2 for radius in RADII], "b" * 64).open(picture())
    both = split_doubt([samples_of(opened), samples_of(other)])
    assert float(both.members.max()) > 0.01


def test_the_split_of_an_image_is_that_of_its_samples_and_can_be_given_up():
    opened = known_reader().open(picture())
    told: list[float] = []
    [split] = splits_of(opened, progress=told.append)
    expected = split_doubt([samples_of(opened)])
    assert torch.equal(split.style, expected.style)
    assert torch.equal(split.within, expected.within)
    assert told == [n / 16 for n in range(1, 17)]
    # Logits that count less leave more open, and differ less.
    [softer] = splits_of(opened, temperature=10.0)
    assert float(softer.within.mean()) > float(split.within.mean())
    assert float(softer.style.mean()) < float(split.style.mean())

    def give_up(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        splits_of(opened, progress=give_up)


def test_several_structures_are_split_one_by_one():
    opened = known_reader(classes=("background", "disc", "other")).open(picture())
    assert len(splits_of(opened)) == 2


def test_nothing_to_split_is_refused():
    with pytest.raises(BadInputError, match="there is no model whose doubt"):
        split_doubt([])
    with pytest.raises(BadInputError, match="model 1 has no sample"):
        split_doubt([[(0, field(0))], []])
