"""An episode trains each network by its own equation: votes by eqs. 3 and 6, weights by eq. 7."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.episode import EpisodeOptions, Losses, fused_of_some, play
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.training import clicking

TINY = Configuration(width=4, components=3, dimension=2, prompt_width=4)
OPTIONS = EpisodeOptions(turns=3, samples=4, candidates=2)


def model_of(configuration: Configuration = TINY) -> MedUHIP:
    torch.manual_seed(0)
    model = MedUHIP(configuration)
    for decoder in model.backend.decoders:  # type: ignore[attr-defined]
        # As after some training: samples differ.
        torch.nn.init.normal_(decoder.last.weight)
    return model


def case(axes: int = 2, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a block, and two raters of whom the second draws it larger."""
    shape = (32, 34, 32)[:axes]
    raters = torch.zeros(batch, 2, *shape)
    for rater, margin in enumerate((10, 6)):
        raters[(slice(None), rater, *[slice(margin, -margin)] * axes)] = 1
    generator = torch.Generator().manual_seed(0)
    return raters[:, :1] + 0.3 * torch.randn(batch, 1, *shape, generator=generator), raters


def played(options: EpisodeOptions, seed: int = 0, model: MedUHIP | None = None) -> Losses:
    images, raters = case()
    return play(model or model_of(), images, raters, options, np.random.default_rng(seed))


def touched(model: MedUHIP, loss: torch.Tensor) -> set[str]:
    """Names of the parameters that a loss has a gradient for."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        name
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None and bool(gradient.abs().sum() > 0)
    }


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pick_share": 1.0},
        {"pick_share": 0.0},
        {"sampler": "collapsed"},
        {"set_weight": 0.0, "coverage_weight": 0.0},
    ],
    ids=str,
)
def test_losses_are_finite_whatever_is_played(change):
    losses = played(replace(OPTIONS, **change))
    assert bool(losses.voting.isfinite())
    assert bool(losses.weighting.isfinite())
    assert losses.voting.shape == losses.weighting.shape == ()
    assert bool(losses.voting > 0)
    assert torch.equal(losses.total, losses.voting + losses.weighting)


def test_volumes_are_played_as_pictures_are():
    images, raters = case(axes=3, batch=1)
    model = model_of(replace(TINY, backend="unet3d"))
    options = replace(OPTIONS, turns=2, samples=2)
    assert bool(play(model, images, raters, options, np.random.default_rng(0)).total.isfinite())


def test_votes_teach_everything_but_the_weights_and_eq_7_only_those():
    model = model_of()
    losses = played(replace(OPTIONS, turns=2), model=model)
    voting, weighting = touched(model, losses.voting), touched(model, losses.weighting)
    assert weighting
    assert all(name.startswith("structures.0.weights.") for name in weighting)
    assert not any(name.startswith("structures.0.weights.") for name in voting)
    # Segmentation Net (eq. 3), Mean-Variance Network and prompt encoder (eq. 6) all descend the vote.
    for part in (
        "_backend.encoder.",
        "_backend.decoders.",
        "structures.0.mean_variance.",
        "structures.0.prompts.",
    ):
        assert any(name.startswith(part) for name in voting), part


def test_an_episode_of_one_turn_has_no_interaction_to_learn_weights_from():
    model = model_of()
    losses = played(replace(OPTIONS, turns=1), model=model)
    assert float(losses.weighting) == 0
    # Nobody clicked: only the vector of nothing is learnt.
    assert "structures.0.prompts.sides" not in touched(model, losses.voting)
    assert "structures.0.prompts.nothing" in touched(model, losses.voting)


def test_one_opinion_that_no_component_drew_teaches_no_weights():
    model = model_of()
    losses = played(clicking(OPTIONS), model=model)
    assert float(losses.weighting) == 0
    assert not any(name.startswith("structures.0.weights.") for name in touched(model, losses.total))


def test_the_same_seed_plays_the_same_episode():
    first, second, other = (played(OPTIONS, seed) for seed in (1, 1, 2))
    assert torch.equal(first.voting, second.voting)
    assert torch.equal(first.weighting, second.weighting)
    assert not torch.equal(first.voting, other.voting)


def test_another_structure_leaves_the_first_alone():
    model = model_of(replace(TINY, structures=2))
    images, raters = case()
    options = replace(OPTIONS, turns=2)
    losses = play(model, images, raters, options, np.random.default_rng(0), structure=1)
    assert not any(
        name.startswith(("structures.0.", "_backend.decoders.0.")) for name in touched(model, losses.total)
    )


def test_descending_the_losses_lowers_them():
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for step in range(20):
        losses = played(replace(OPTIONS, turns=2), seed=step, model=model)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(float(losses.voting.detach()))
    assert np.mean(history[-3:]) < 0.8 * np.mean(history[:3])


def test_arguments_stay_as_they_are():
    images, raters = case()
    before = images.clone(), raters.clone()
    play(model_of(), images, raters, replace(OPTIONS, turns=2), np.random.default_rng(0))
    assert torch.equal(images, before[0])
    assert torch.equal(raters, before[1])


# what a clinician has in mind


def test_one_rater_is_what_is_wanted():
    _, raters = case()
    assert torch.equal(fused_of_some(raters[:, :1], np.random.default_rng(0)), raters[:, 0])


def test_two_raters_who_differ_are_fused_with_ties_as_foreground():
    _, raters = case(batch=40)
    fused = fused_of_some(raters, np.random.default_rng(0))
    # The small one alone, the large one alone, or both: a tie where only one draws.
    sizes = {float(mask.sum()) for mask in fused}
    assert sizes == {float(raters[0, 0].sum()), float(raters[0, 1].sum())}


def test_every_subset_of_raters_is_wanted_sometimes():
    # Each rater draws a voxel of their own; a majority of 1, 2 or 3 raters keeps 1, 2 or no voxels.
    raters = torch.eye(3).expand(300, 3, 3)
    fused = fused_of_some(raters, np.random.default_rng(0))
    kinds, counts = np.unique(fused.sum(dim=1).numpy(), return_counts=True)
    assert kinds.tolist() == [0, 1, 2]
    assert all(abs(count - 100) < 30 for count in counts)


# options


def test_an_unknown_sampler_is_named():
    with pytest.raises(BadInputError, match="no sampler is called 'flow'; there are mixture, collapsed"):
        EpisodeOptions(sampler="flow")


@pytest.mark.parametrize(("turns", "samples"), [(0, 4), (3, 0)])
def test_an_episode_has_turns_and_samples(turns, samples):
    with pytest.raises(BadInputError, match=f"an episode has turns and samples, got {turns} and {samples}"):
        EpisodeOptions(turns=turns, samples=samples)
