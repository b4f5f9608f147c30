"""Mirror images of an image as further views of it: what a network says of them is averaged.

A network that learnt from a few dozen cases says something else of an image than of its mirror image; the mean is
better than either (test-time augmentation, as nnU-Net has it). Clicks and the chosen mask are mirrored with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch

from overread.meduhip.prompts import Prompts

# The axes along which one view is mirrored; none for the image as it is.
Mirror = tuple[int, ...]
AS_IT_IS: tuple[Mirror, ...] = ((),)
# Along how many axes images are mirrored, by their number of axes: a view costs as much as the image.
MIRRORED_AXES = {2: 2, 3: 1}


def mirrors_along(allowed: Sequence[int], axes: int) -> tuple[Mirror, ...]:
    """The views of an image: itself, and mirrored along every set of some allowed axes.

    Args:
        allowed: axes along which training mirrored patches, such as `Plan.mirror_axes`.
        axes: 2 for pictures, 3 for volumes.
    """
    used = sorted(allowed)[: MIRRORED_AXES[axes]]
    return tuple(chain.from_iterable(combinations(used, count) for count in range(len(used) + 1)))


def mirrored(values: torch.Tensor, mirrors: Sequence[Mirror]) -> torch.Tensor:
    """All views of a batch, view after view: `(batch, channel, *space)` to `(view * batch, channel, *space)`."""
    return torch.cat([_flipped(values, mirror) for mirror in mirrors])


def mirrored_prompts(prompts: Prompts, mirrors: Sequence[Mirror], shape: tuple[int, ...]) -> Prompts:
    """Prompts of a batch for all views of its images of that many voxels, view after view."""
    places = []
    for mirror in mirrors:
        moved = prompts.places.clone()
        for axis in mirror:
            moved[..., axis] = shape[axis] - 1 - moved[..., axis]
        places.append(moved)
    count = len(mirrors)
    return Prompts(
        torch.cat(places),
        prompts.sides.repeat(count, 1),
        mirrored(prompts.dense, mirrors),
        prompts.has_dense.repeat(count),
    )


def merged(logits: torch.Tensor, mirrors: Sequence[Mirror]) -> torch.Tensor:
    """The mean over views, each turned back: `(view * batch, sample, *space)` to `(batch, sample, *space)`."""
    total = torch.zeros_like(logits[: len(logits) // len(mirrors)])
    for view, mirror in zip(logits.chunk(len(mirrors)), mirrors, strict=True):
        total += _flipped(view, mirror)
    return total / len(mirrors)


def _flipped(values: torch.Tensor, mirror: Mirror) -> torch.Tensor:
    return values.flip([2 + axis for axis in mirror]) if mirror else values
