"""What the clinician did, as the networks see it: clicks with a side, and the mask that was chosen last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from overread.domain import BadInputError

# Side of a slot without a click.
NO_CLICK = -1
# Edge of the dense prompt, as SAM keeps the earlier mask smaller than the image.
DENSE_EDGE: dict[int, int] = {2: 64, 3: 32}
# Logits beyond these say nothing more.
LARGEST_LOGIT = 8.0
FOURIER_SCALE = 2.0

Side = Literal["foreground", "background"]


@dataclass(frozen=True)
class Click:
    """One voxel that a clinician pointed at.

    Attributes:
        place: voxel, in the axis order of the image that the networks see (pictures are x, y).
        foreground: whether it belongs to the structure.
    """

    place: tuple[int, ...]
    foreground: bool


@dataclass(frozen=True, eq=False)
class Prompts:
    """Clicks and dense prompts of a batch of images.

    Attributes:
        places: `(batch, click, axis)`, voxels as floats.
        sides: `(batch, click)`: 1 foreground, 0 background, `NO_CLICK` an empty slot.
        dense: `(batch, 1, *low)`, logits of the mask chosen last, at most `DENSE_EDGE` a side; zeros where none was.
        has_dense: `(batch,)`, 1.0 where a mask was chosen.
    """

    places: torch.Tensor
    sides: torch.Tensor
    dense: torch.Tensor
    has_dense: torch.Tensor

    def __post_init__(self) -> None:
        batch, axes = self.places.shape[0], self.places.shape[2]
        if self.sides.shape != self.places.shape[:2] or self.dense.ndim != axes + 2:
            raise BadInputError(
                f"prompts: places {tuple(self.places.shape)} are (batch, click, axis), sides "
                f"{tuple(self.sides.shape)} (batch, click), dense {tuple(self.dense.shape)} (batch, 1, *space)"
            )
        if self.has_dense.shape != (batch,) or self.dense.shape[0] != batch:
            raise BadInputError(
                f"prompts are of different numbers of images: places {batch}, dense {len(self.dense)}, "
                f"has_dense {len(self.has_dense)}"
            )

    @classmethod
    def none(cls, batch: int, axes: int, device: torch.device | str = "cpu") -> Prompts:
        """Before anything was said."""
        edge = DENSE_EDGE[axes]
        return cls(
            torch.zeros(batch, 0, axes, device=device),
            torch.zeros(batch, 0, device=device),
            torch.zeros(batch, 1, *[edge] * axes, device=device),
            torch.zeros(batch, device=device),
        )

    @classmethod
    def of_clicks(cls, clicks: Sequence[Click], axes: int, dense: torch.Tensor | None = None) -> Prompts:
        """Of one image: its clicks, and the logits `(*low)` of the chosen mask if there is one."""
        empty = cls.none(1, axes)
        places = torch.tensor([click.place for click in clicks], dtype=torch.float32).reshape(1, -1, axes)
        sides = torch.tensor([float(click.foreground) for click in clicks]).reshape(1, -1)
        if dense is None:
            return cls(places, sides, empty.dense, empty.has_dense)
        return cls(places, sides, dense.float()[None, None], torch.ones(1))

    def with_click(self, places: torch.Tensor, sides: torch.Tensor) -> Prompts:
        """One more click an image: `(batch, axis)` and `(batch,)`."""
        return Prompts(
            torch.cat([self.places, places[:, None].to(self.places)], dim=1),
            torch.cat([self.sides, sides[:, None].to(self.sides)], dim=1),
            self.dense,
            self.has_dense,
        )

    def with_dense(self, logits: torch.Tensor) -> Prompts:
        """Another chosen mask: logits `(batch, *space)` of any size."""
        return Prompts(self.places, self.sides, to_dense(logits), torch.ones_like(self.has_dense))

    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        return Prompts(*(part.to(device) for part in (self.places, self.sides, self.dense, self.has_dense)))

    def expanded(self, batch: int) -> Prompts:
        """The prompts of one image for `batch` copies of it."""
        return Prompts(
            self.places.expand(batch, -1, -1),
            self.sides.expand(batch, -1),
            self.dense.expand(batch, *[-1] * (self.dense.ndim - 1)),
            self.has_dense.expand(batch),
        )


def to_dense(logits: torch.Tensor) -> torch.Tensor:
    """Logits `(batch, *space)` as a dense prompt `(batch, 1, *low)`."""
    axes = logits.ndim - 1
    small = F.adaptive_avg_pool2d if axes == 2 else F.adaptive_avg_pool3d
    clipped = logits[:, None].clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return small(clipped, [DENSE_EDGE[axes]] * axes)  # pyright: ignore[reportArgumentType]


def click_maps(prompts: Prompts, shape: Sequence[int], sigmas_voxel: Sequence[float]) -> torch.Tensor:
    """Gaussian bumps round the clicks: `(batch, 2 * len(sigmas), *shape)` in [0, 1], foreground before background.

    Bumps of clicks that lie together do not add up; the nearest counts.
    """
    device = prompts.places.device
    maps = torch.zeros(len(prompts.sides), len(sigmas_voxel), 2, *shape, device=device)
    voxels = [torch.arange(size, device=device) for size in shape]
    for of_image, places, sides in zip(maps, prompts.places, prompts.sides.tolist(), strict=True):
        for place, side in zip(places, sides, strict=True):
            if side == NO_CLICK:
                continue
            for sigma, of_sigma in zip(sigmas_voxel, of_image, strict=True):
                along = [
                    torch.exp(-0.5 * ((n - at) / sigma) ** 2) for n, at in zip(voxels, place, strict=True)
                ]
                shown = of_sigma[0 if side == 1 else 1]
                # A Gaussian of the distance is the product of those along the axes.
                torch.maximum(shown, _outer(along), out=shown)
    return maps.flatten(1, 2)


def _outer(along: Sequence[torch.Tensor]) -> torch.Tensor:
    """`(*space)`, the product of one vector an axis."""
    product = along[0]
    for vector in along[1:]:
        product = product[..., None] * vector
    return product


class PromptEncoder(nn.Module):
    """Clicks to one vector an image, after SAM's (Kirillov et al. 2023, arXiv:2304.02643, appendix A).

    Random Fourier features of the place plus a learnt vector of the side, averaged over clicks; a learnt vector of its
    own where nothing was clicked. It steers the sampling space; the decoder sees the clicks where they lie.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.frequencies: torch.Tensor
        generator = torch.Generator().manual_seed(0)
        frequencies = FOURIER_SCALE * torch.randn(axes, width // 2, generator=generator)
        self.register_buffer("frequencies", frequencies)
        self.sides = nn.Parameter(0.1 * torch.randn(2, width))
        self.nothing = nn.Parameter(0.1 * torch.randn(width))

    def forward(self, prompts: Prompts, shape: Sequence[int]) -> torch.Tensor:
        """`(batch, width)`, for an image of `shape` voxels."""
        size = torch.tensor(list(shape), dtype=torch.float32, device=prompts.places.device)
        where = 2 * (prompts.places + 0.5) / size - 1
        angles = 2 * math.pi * where @ self.frequencies
        there = torch.cat([angles.sin(), angles.cos()], dim=-1)
        side = torch.where((prompts.sides == 1)[..., None], self.sides[1], self.sides[0])
        clicked = (prompts.sides != NO_CLICK).to(there)[..., None]
        count = clicked.sum(dim=1)
        mean = ((there + side) * clicked).sum(dim=1) / count.clamp_min(1)
        return torch.where(count > 0, mean, self.nothing)
