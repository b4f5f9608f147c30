"""The U-Net runs once an image; each sample of the mixture is one mask, at the resolution of the image."""

import math

import pytest
import torch
from torch.nn import functional as F

from overread.meduhip.backend import Cache
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.unet import SAMPLES_AT_ONCE, VOXELS_AT_ONCE, UNetBackend

WIDTH, DIMENSION = 4, 3


def backend_of(axes: int, channels: int = 1) -> UNetBackend:
    torch.manual_seed(0)
    backend = UNetBackend(axes, channels, 1, DIMENSION, WIDTH)
    # As after some training: samples differ.
    torch.nn.init.normal_(backend.decoders[0].last.weight)  # type: ignore[attr-defined]
    return backend


@pytest.fixture(scope="module")
def pictures() -> UNetBackend:
    return backend_of(2)


@pytest.fixture(scope="module")
def volumes() -> UNetBackend:
    return backend_of(3)


def said(axes: int) -> Prompts:
    """A click and a chosen mask."""
    click = Click((5, 9, 4)[:axes], True)
    return Prompts.of_clicks([click], axes).with_dense(torch.randn(1, *[20] * axes))


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (50, 35)])
def test_each_sample_is_a_mask_of_the_pictures_size(pictures, shape):
    cache = pictures.encode(torch.randn(2, 1, *shape))
    assert cache.context.shape == (2, pictures.context_width)
    assert cache.shape == shape
    assert pictures.decode(cache, torch.randn(2, 5, DIMENSION), said(2).expanded(2)).shape == (2, 5, *shape)


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 35, 19)])
def test_each_sample_is_a_mask_of_the_volumes_size(volumes, shape):
    cache = volumes.encode(torch.randn(1, 1, *shape))
    assert volumes.decode(cache, torch.randn(1, 2, DIMENSION), said(3)).shape == (1, 2, *shape)


def test_images_can_have_several_channels():
    assert backend_of(2, channels=3).encode(torch.randn(1, 3, 32, 32)).context.shape == (1, WIDTH)


@pytest.mark.parametrize("axes", [2, 3])
def test_decoding_in_parts_without_gradients_is_the_same(axes, pictures, volumes):
    backend = pictures if axes == 2 else volumes
    # Neither voxels nor samples are a multiple of what is decoded at a time.
    shape = (180, 150) if axes == 2 else (40, 36, 36)
    assert math.prod(n // 2 for n in shape) > VOXELS_AT_ONCE
    cache = backend.encode(torch.randn(1, 1, *shape))
    samples = torch.randn(1, 2 * SAMPLES_AT_ONCE + 1, DIMENSION)
    prompts = said(axes)
    together = backend.decode(cache, samples, prompts)
    with torch.no_grad():
        parts = backend.decode(cache, samples, prompts)
    torch.testing.assert_close(parts, together.detach(), atol=1e-5, rtol=1e-4)


def test_fused_form_of_eq_1_is_a_convolution_over_features_and_sample(pictures):
    decoder = pictures.decoders[0]
    features, samples = torch.randn(2, WIDTH, 6, 7), torch.randn(2, 5, DIMENSION)
    plain = torch.zeros(2, 1, 6, 7)
    fused = decoder._masks(plain, decoder.from_features(features), decoder.from_sample(samples))
    weight = torch.cat([decoder.from_features.weight, decoder.from_sample.weight[..., None, None]], dim=1)
    for n in range(5):
        spread = samples[:, n, :, None, None].expand(-1, -1, 6, 7)
        first = F.relu(F.conv2d(torch.cat([features, spread], dim=1), weight, decoder.from_features.bias))
        literal = decoder.last(F.relu(decoder.middle(first)))
        torch.testing.assert_close(fused[:, n : n + 1], literal, atol=1e-5, rtol=1e-4)


def test_what_was_said_reaches_the_masks_as_if_it_were_added_to_the_features():
    backend = backend_of(3)
    decoder, samples, prompts = backend.decoders[0], torch.randn(1, 1, DIMENSION), said(3)
    with torch.no_grad():
        decoder.last.weight.zero_()
        cache = backend.encode(torch.randn(1, 1, 20, 33, 32))
        half = F.avg_pool3d(cache.features, 2, ceil_mode=True)
        change = decoder.refine(half, prompts, cache.shape)
        enlarged = F.interpolate(change, cache.shape, mode="trilinear", align_corners=False)
        masks = backend.decode(cache, samples, prompts)
        literal = decoder.plain(cache.features + enlarged)
    torch.testing.assert_close(masks - decoder.last.bias, literal, atol=1e-5, rtol=1e-4)


def test_a_sample_says_the_same_in_all_slices_of_slices_that_are_the_same(volumes):
    decoder = volumes.decoders[0]
    features = torch.randn(1, WIDTH, 10, 12, 1).expand(-1, -1, -1, -1, 6)
    # Without what the prompts change; that looks beyond the border of the volume.
    plain, fused = decoder.plain(features), decoder.from_features(features)
    masks = decoder._masks(plain, fused, decoder.from_sample(torch.randn(1, 3, DIMENSION)))
    torch.testing.assert_close(masks, masks[..., :1].expand_as(masks))
    assert not torch.allclose(masks[:, 0], masks[:, 1])


def test_the_same_sample_is_the_same_mask_whatever_is_drawn_beside_it(pictures):
    cache = pictures.encode(torch.randn(1, 1, 32, 32))
    samples = torch.randn(1, 4, DIMENSION)
    order = [2, 0, 3, 1]
    prompts = Prompts.of_clicks([Click((5, 9), True)], 2)
    torch.testing.assert_close(
        pictures.decode(cache, samples[:, order], prompts),
        pictures.decode(cache, samples, prompts)[:, order],
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_click_and_a_chosen_mask_change_what_is_said(pictures):
    cache = pictures.encode(torch.randn(1, 1, 32, 32))
    samples, nothing = torch.randn(1, 2, DIMENSION), Prompts.none(1, 2)
    before = pictures.decode(cache, samples, nothing)
    for prompts in (
        Prompts.of_clicks([Click((20, 5), True)], 2),
        Prompts.of_clicks([Click((20, 5), False)], 2),
        nothing.with_dense(torch.zeros(1, 32, 32)),
    ):
        assert not torch.allclose(pictures.decode(cache, samples, prompts), before)


def test_gradients_reach_features_samples_and_every_parameter(pictures):
    cache = pictures.encode(torch.randn(1, 1, 32, 32))
    samples = torch.randn(1, 3, DIMENSION, requires_grad=True)
    (pictures.decode(cache, samples, said(2)) ** 2).mean().backward()
    assert bool(samples.grad.abs().sum() > 0)
    silent = [name for name, p in pictures.named_parameters() if p.grad is None]
    assert silent == []
    pictures.zero_grad(set_to_none=True)


def test_decoding_does_not_change_what_is_kept(pictures):
    with torch.no_grad():
        cache = pictures.encode(torch.randn(1, 1, 32, 32))
        kept = Cache(cache.features.clone(), cache.context.clone(), cache.shape)
        pictures.decode(cache, torch.randn(1, 5, DIMENSION), said(2))
    assert torch.equal(cache.features, kept.features)
    assert torch.equal(cache.context, kept.context)


def test_at_first_no_sample_changes_what_the_network_says():
    backend = UNetBackend(2, 1, 1, DIMENSION, WIDTH)
    cache = backend.encode(torch.randn(1, 1, 32, 32))
    masks = backend.decode(cache, torch.randn(1, 3, DIMENSION), said(2))
    torch.testing.assert_close(masks, masks[:, :1].expand_as(masks))
