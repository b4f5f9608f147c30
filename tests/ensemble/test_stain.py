"""Pictures of slides are stained otherwise, along the dyes' own colours, and stay pictures."""

import math

import pytest
import torch

from overread.ensemble.stain import HED, colours_of, in_colours, restain, vary_stain


def drawn(strength: float, seed: int, picture: torch.Tensor) -> torch.Tensor:
    return vary_stain(picture, strength, torch.Generator().manual_seed(seed))


def tissue() -> torch.Tensor:
    """Haematoxylin from left to right, eosin from top to bottom."""
    amounts = torch.linspace(0, 1, 8)
    density = amounts[None, None] * HED[0][:, None, None] + amounts[None, :, None] * HED[1][:, None, None]
    return torch.exp(-density)


def test_twice_the_haematoxylin_is_twice_the_density_of_its_own_colour() -> None:
    blue = torch.exp(-0.5 * HED[0])[:, None]
    twice = restain(blue, torch.tensor([2.0, 1.0, 1.0]), torch.zeros(3))
    assert torch.allclose(twice, torch.exp(-HED[0])[:, None], atol=1e-5)
    # Eosin is not in it: more of none is none.
    same = restain(blue, torch.tensor([1.0, 3.0, 1.0]), torch.zeros(3))
    assert torch.allclose(same, blue, atol=1e-5)


def test_a_shift_adds_a_dye_where_there_is_none() -> None:
    white = torch.ones(3, 2, 2)
    pink = restain(white, torch.ones(3), torch.tensor([0.0, 0.1, 0.0]))
    assert pink[0, 0, 0] == pytest.approx(math.exp(-0.1 * float(HED[1, 0])), abs=1e-6)
    assert pink[1].max() < pink[2].max() < pink[0].max()


def test_grey_stays_grey_where_no_dye_changes() -> None:
    for seed in range(20):
        grey = drawn(0.0, seed, torch.full((3, 4, 4), 0.5))
        assert torch.allclose(grey, grey[:1].expand(3, 4, 4), atol=1e-5)
        assert 0.44 <= float(grey.mean()) <= 0.56


def test_stronger_is_further_and_all_of_it_stays_between_black_and_white() -> None:
    picture = tissue()
    before = picture.clone()
    distances = []
    for strength in (0.05, 0.2):
        varied = [drawn(strength, seed, picture) for seed in range(40)]
        assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in varied)
        distances.append(sum(float((one - picture).abs().mean()) for one in varied))
    assert distances[0] < distances[1]
    assert torch.equal(picture, before)
    assert not torch.equal(drawn(0.05, 1, picture), drawn(0.05, 2, picture))
    assert torch.equal(drawn(0.05, 1, picture), drawn(0.05, 1, picture))


def test_black_is_no_problem() -> None:
    assert torch.isfinite(drawn(0.2, 0, torch.zeros(3, 4, 4))).all()


def test_a_picture_in_another_ones_colours_has_its_moments_and_white_stays_white() -> None:
    generator = torch.Generator().manual_seed(3)
    amounts = torch.rand(2, 40, 40, generator=generator)
    here = torch.exp(-torch.einsum("skl,sc->ckl", amounts, HED[:2]))
    # Another laboratory: a redder eosin, twice the haematoxylin.
    dyes = torch.stack([2 * HED[0], torch.tensor([0.3, 0.9, 0.3])])
    there = torch.exp(-torch.einsum("skl,sc->ckl", torch.rand(2, 40, 40, generator=generator), dyes))
    now, wanted = colours_of(here), colours_of(there)
    assert not torch.allclose(now, wanted, atol=0.05)
    turned = in_colours(here, now, wanted)
    assert torch.allclose(colours_of(turned), wanted, atol=0.02)
    white = torch.ones(3, 4, 4)
    assert torch.allclose(in_colours(white, now, wanted), white)
    assert torch.allclose(in_colours(here, now, now), here, atol=1e-4)


def test_colours_are_those_of_tissue_not_of_glass() -> None:
    picture = tissue()
    with_glass = torch.cat([picture, torch.ones(3, 8, 40)], dim=2)
    assert torch.allclose(colours_of(with_glass), colours_of(picture), atol=1e-5)
    for empty in (torch.ones(3, 8, 8), torch.zeros(3, 8, 8)):
        assert torch.isfinite(in_colours(picture, colours_of(picture), colours_of(empty))).all()
        assert torch.isfinite(in_colours(empty, colours_of(empty), colours_of(picture))).all()
