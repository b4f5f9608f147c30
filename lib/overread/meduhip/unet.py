"""The backends `unet2d` and `unet3d`: U-Net features once, samples and clicks put in late."""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch.nn import functional as F

from overread.meduhip.backend import Cache
from overread.meduhip.prompts import LARGEST_LOGIT, Prompts, click_maps

# Reach of a click, in voxels: the spot itself, and the part of the structure round it.
CLICK_SIGMAS_VOXEL = (2.0, 8.0)
PROMPT_CHANNELS = 2 * len(CLICK_SIGMAS_VOXEL) + 2
# Samples move the features by as much as the features differ; with less, all samples learn the same mask.
FIRST_STYLE = 3.0
# The U-Net halves the image four times.
SHORTEST_EDGE = 16
# Samples that are decoded at a time without gradients.
SAMPLES_AT_ONCE = 4
# And voxels, at half the image's resolution.
VOXELS_AT_ONCE = 1 << 12


class UNetBackend(nn.Module):
    """A U-Net whose last features are fused with samples and prompts voxel by voxel.

    The U-Net runs once an image. A turn runs a small network over its features and the prompts, once for all samples,
    and then three 1x1 convolutions a sample (eq. 1). Both work at half the image's resolution and change what the
    features say at full resolution: the edges come from the image, what is disputed about them is smooth. So N samples
    cost little more than one. The same sample is used in every voxel, so that an opinion is one opinion through all
    slices of a volume.

    Args:
        axes: 2 or 3.
        channels: of the image.
        structures: foreground classes; each has a decoder of its own, all share the U-Net.
        dimension: of the sampling space.
        width: channels of the finest level and of the features.
    """

    def __init__(self, axes: int, channels: int, structures: int, dimension: int, width: int) -> None:
        super().__init__()
        self.axes, self.context_width = axes, width
        widths = (width, width, 2 * width, 4 * width, 8 * width, width)
        # Not instance normalisation, whose statistics are a patch's in training and the whole image's afterwards.
        self.encoder = BasicUNet(axes, channels, width, features=widths, norm="batch")
        self.decoders = nn.ModuleList(_Decoder(axes, width, dimension) for _ in range(structures))

    def encode(self, image: torch.Tensor) -> Cache:
        """See `Backend`."""
        shape = image.shape[2:]
        features = self.encoder(_with_room(image))[(..., *(slice(n) for n in shape))]
        context = features.float().flatten(2).mean(dim=2)
        return Cache(features, context, tuple(image.shape[2:]))

    def decode(
        self, cache: Cache, samples: torch.Tensor, prompts: Prompts, structure: int = 0
    ) -> torch.Tensor:
        """See `Backend`."""
        return cast(_Decoder, self.decoders[structure])(cache.features, samples, prompts)


class _Decoder(nn.Module):
    """Features, prompts and samples to masks of one structure."""

    def __init__(self, axes: int, width: int, dimension: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        self.axes = axes
        self.refine = _Refinement(axes, width)
        self.plain = convolution(width, 1, 1)
        # The first convolution of eq. 1 over features and sample together, as the sum of two: the part that sees the
        # features is computed once for all samples.
        self.from_features = convolution(width, width, 1)
        self.from_sample = nn.Linear(dimension, width, bias=False)
        with torch.no_grad():
            self.from_sample.weight.mul_(FIRST_STYLE)
        self.middle = convolution(width, width, 1)
        # At first no sample changes anything, so that masks can be learnt before samples are.
        self.last = convolution(width, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(nn.Parameter, self.last.bias))

    def forward(self, features: torch.Tensor, samples: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        half = halved(features)
        said = self.refine(half, prompts, tuple(features.shape[2:]))
        # The convolution of features and what was said, as the sum of two: one channel is enlarged instead of all.
        plain = self.plain(features) + _as_large(
            self.plain(said) - cast(nn.Parameter, self.plain.bias), features
        )
        fused = self.from_features(half + said)
        styles = self.from_sample(samples)
        if torch.is_grad_enabled():
            return self._masks(plain, fused, styles)
        masks = plain.new_empty(len(plain), styles.shape[1], *plain.shape[2:])
        for part, out in zip(
            styles.split(SAMPLES_AT_ONCE, dim=1), masks.split(SAMPLES_AT_ONCE, dim=1), strict=True
        ):
            torch.add(plain, _as_large(self._changes(fused, part), plain), out=out)
        return masks

    def _masks(self, plain: torch.Tensor, fused: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        return plain + _as_large(self._changes(fused, styles), plain)

    def _changes(self, fused: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        """What each sample changes, `(batch, sample, *half)`.

        Block by block, so that the samples' features stay in a processor's cache.
        """
        batch, count, _ = styles.shape
        flat = fused.flatten(2)[:, None]
        whole = torch.is_grad_enabled() or flat.is_cuda
        block = flat.shape[-1] if whole else VOXELS_AT_ONCE
        parts = []
        for part in flat.split(block, dim=-1):
            hidden = F.relu(_pointwise(self.middle, F.relu(part + styles[..., None])))
            parts.append(_pointwise(self.last, hidden)[:, :, 0])
        return torch.cat(parts, dim=-1).reshape(batch, count, *fused.shape[2:])


def _pointwise(convolution: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution of `(…, channel, voxel)` as one product of matrices."""
    weight, bias = cast(torch.Tensor, convolution.weight), cast(torch.Tensor, convolution.bias)
    flat = values.flatten(0, -3)
    product = torch.baddbmm(bias[:, None], weight.flatten(1).expand(len(flat), -1, -1), flat)
    return product.unflatten(0, values.shape[:-2])


def _with_room(image: torch.Tensor) -> torch.Tensor:
    """The image with its last voxels repeated along axes that are too short to be halved as often as the U-Net does."""
    missing = [max(0, SHORTEST_EDGE - n) for n in image.shape[2:]]
    if all(n < 2 * SHORTEST_EDGE for n in image.shape[2:]):
        # The coarsest level is normalised over its voxels, so there are to be two of them.
        missing[-1] = 2 * SHORTEST_EDGE - image.shape[-1]
    if not any(missing):
        return image
    ends = [n for size in reversed(missing) for n in (0, size)]
    return F.pad(image, ends, mode="replicate")


def halved(values: torch.Tensor) -> torch.Tensor:
    """`(batch, channel, *space)` at half the resolution; axes of one voxel stay."""
    pool = F.avg_pool2d if values.ndim == 4 else F.avg_pool3d
    return pool(values, [min(2, n) for n in values.shape[2:]], ceil_mode=True)


def _as_large(values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`values` interpolated to the voxels of `other`."""
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values, size=other.shape[2:], mode=mode, align_corners=False)


class _Refinement(nn.Module):
    """What clicks and the chosen mask change in the features; a small U-Net of its own, so that a click reaches far.

    Without normalisation: what an answer before any click looks like must not depend on answers after one.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.first = _Block(axes, width + PROMPT_CHANNELS, width)
        self.second = _Block(axes, width, 2 * width)
        self.third = _Block(axes, 2 * width, 2 * width)
        self.up = _Block(axes, 4 * width, width)
        self.out = (nn.Conv2d if axes == 2 else nn.Conv3d)(2 * width, width, 3, padding=1)

    def forward(self, half: torch.Tensor, prompts: Prompts, shape: tuple[int, ...]) -> torch.Tensor:
        """Changes `(batch, feature, *half)`; `shape` is that of the image, in whose voxels the clicks are."""
        bumps = halved(click_maps(prompts, shape, CLICK_SIGMAS_VOXEL))
        dense = _as_large(prompts.dense / LARGEST_LOGIT, half)
        flag = prompts.has_dense.reshape(-1, *[1] * (half.ndim - 1)).expand_as(dense)
        first = self.first(torch.cat([half, bumps.to(half), dense.to(half), flag.to(half)], dim=1))
        second = self.second(halved(first))
        third = self.third(halved(second))
        second = self.up(torch.cat([second, _as_large(third, second)], dim=1))
        return self.out(torch.cat([first, _as_large(second, first)], dim=1))


class _Block(nn.Sequential):
    def __init__(self, axes: int, channels: int, width: int) -> None:
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        super().__init__(
            convolution(channels, width, 3, padding=1),
            nn.LeakyReLU(0.01, inplace=True),
        )
