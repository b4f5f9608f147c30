"""The seam between an image network and the sampling space: encode once, decode for each turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from overread.meduhip.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Cache:
    """What is kept of images between turns.

    Attributes:
        features: `(batch, feature, *space)`, the image embedding E_G; at whatever resolution the backend decodes from.
        context: `(batch, context)`, the embedding averaged over the image.
        shape: voxels of the images.
    """

    features: torch.Tensor
    context: torch.Tensor
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.features, self.context))

    def expanded(self, batch: int) -> Cache:
        """The cache of one image for `batch` copies of it; nothing is copied."""
        return Cache(
            self.features.expand(batch, *[-1] * (self.features.ndim - 1)),
            self.context.expand(batch, -1),
            self.shape,
        )

    def detached(self) -> Cache:
        """The same numbers without their history."""
        return Cache(self.features.detach(), self.context.detach(), self.shape)


class Backend(Protocol):
    """Encoder and decoder of MedUHIP's Segmentation Net (section 3.3), whatever they are made of.

    Attributes:
        axes: 2 for pictures, 3 for volumes.
        context_width: length of `Cache.context`.
    """

    axes: int
    context_width: int

    def encode(self, image: torch.Tensor) -> Cache:
        """Images `(batch, channel, *space)` to what every decoding starts from."""
        ...

    def decode(
        self, cache: Cache, samples: torch.Tensor, prompts: Prompts, structure: int = 0
    ) -> torch.Tensor:
        """Masks of one structure.

        Args:
            samples: `(batch, sample, dimension)` of the sampling space.
            structure: which foreground class.

        Returns:
            Logits `(batch, sample, *space)` at the images' resolution.
        """
        ...
