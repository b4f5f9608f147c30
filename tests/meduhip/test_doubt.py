"""Style, within and members are variances that add up to the total, each 0 where there is none of its kind."""

from __future__ import annotations

import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.doubt import PARTS, case_scores, samples_of, split_doubt
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


def test_one_model_has_no_doubt_between_members_and_the_queue_takes_what_is_not_style():
    one = case_scores(split_doubt([[(0, field(0.8)), (1, field(0.6))]]))
    assert one["members"] == 0
    assert one["label"] == one["within"] > one["style"] > 0
    two = case_scores(split_doubt([[(0, field(0.9))], [(0, field(0.5))]]))
    assert two["label"] == two["members"] == pytest.approx(0.04)


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


def test_nothing_to_split_is_refused():
    with pytest.raises(BadInputError, match="there is no model whose doubt"):
        split_doubt([])
    with pytest.raises(BadInputError, match="model 1 has no sample"):
        split_doubt([[(0, field(0))], []])
