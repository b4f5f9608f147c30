"""A MedUHIP model has the parts that its configuration names, with parameters of their own."""

import pytest
import torch

from overread.domain import BadInputError
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts

TINY = Configuration(width=4, components=3, dimension=2, prompt_width=4, structures=2)


@pytest.fixture(scope="module")
def model() -> MedUHIP:
    torch.manual_seed(0)
    return MedUHIP(TINY).eval()


def test_axes_follow_from_the_backend():
    assert (Configuration(backend="unet2d").axes, Configuration(backend="unet3d").axes) == (2, 3)


def test_an_unknown_backend_is_named():
    with pytest.raises(
        BadInputError, match="no MedUHIP backend is called 'vnet'; there are unet2d, unet3d, sam"
    ):
        Configuration(backend="vnet")


@pytest.mark.parametrize(
    "name", ["channels", "structures", "width", "components", "dimension", "samples", "candidates"]
)
def test_sizes_are_at_least_one(name):
    with pytest.raises(BadInputError, match=f"{name} of a MedUHIP model is 0, expected at least 1"):
        Configuration(**{name: 0})


@pytest.mark.parametrize("width", [0, 7, -2])
def test_the_prompt_vector_is_of_sines_and_cosines(width):
    with pytest.raises(
        BadInputError, match=f"prompt_width of a MedUHIP model is {width}, expected an even number"
    ):
        Configuration(prompt_width=width)


def test_an_unknown_clustering_is_named():
    with pytest.raises(BadInputError, match="clustering is 'kmodes', expected 'kmeans' or 'kmedoids'"):
        Configuration(clustering="kmodes")


def test_every_parameter_has_one_place(model):
    segmentation = {id(p) for p in model.segmentation_parameters()}
    moving = [{id(p) for p in model.sampling(s).moving_parameters()} for s in (0, 1)]
    weighting = [{id(p) for p in model.sampling(s).weights.parameters()} for s in (0, 1)]
    blocks = [segmentation, *moving, *weighting]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    assert set().union(*blocks) == {id(p) for p in model.parameters()}


def test_before_anything_is_known_weights_are_even(model):
    cache = model.encode(torch.randn(2, 1, 32, 32))
    space = model.space(cache, Prompts.none(2, 2))
    torch.testing.assert_close(space.weights, torch.full((2, 3), 1 / 3))


def test_a_shift_moves_the_means_by_itself(model):
    cache = model.encode(torch.randn(1, 1, 32, 32))
    prompts, weights = Prompts.of_clicks([Click((3, 4), True)], 2), torch.tensor([[0.5, 0.3, 0.2]])
    shift = torch.randn(1, 3, 2)
    still, moved = model.space(cache, prompts, weights), model.space(cache, prompts, weights, shift)
    torch.testing.assert_close(moved.means, still.means + shift)
    assert torch.equal(moved.log_variances, still.log_variances)
    torch.testing.assert_close(moved.weights, weights)


def test_structures_have_spaces_and_decoders_of_their_own(model):
    cache, prompts, samples = (
        model.encode(torch.randn(1, 1, 32, 32)),
        Prompts.none(1, 2),
        torch.randn(1, 4, 2),
    )
    first, second = (model.space(cache, prompts, structure=s) for s in (0, 1))
    assert not torch.equal(first.means, second.means)
    masks = [model.decode(cache, samples, prompts, s) for s in (0, 1)]
    assert masks[0].shape == (1, 4, 32, 32)
    assert not torch.equal(masks[0], masks[1])


def test_a_cache_serves_copies_of_its_image(model):
    cache = model.encode(torch.randn(1, 1, 32, 32)).detached()
    samples, prompts = torch.randn(3, 2, 2), Prompts.of_clicks([Click((3, 4), True)], 2)
    together = model.decode(cache.expanded(3), samples, prompts.expanded(3))
    alone = torch.cat([model.decode(cache, samples[n : n + 1], prompts) for n in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not cache.features.requires_grad
    # 4 features at 32 x 32, and their means, in float32.
    assert cache.bytes == 4 * (4 * 32 * 32 + 4)
    # Copies hold no memory of their own.
    assert cache.expanded(3).features.data_ptr() == cache.features.data_ptr()
