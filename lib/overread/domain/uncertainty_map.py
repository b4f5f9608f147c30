"""A scalar field of doubt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from overread.domain.errors import OverreadError


@dataclass(frozen=True, eq=False)
class UncertaintyMap:
    """How much doubt there is at each voxel.

    Attributes:
        values: `(*space)`, finite, at least 0; 0 means no doubt.
        unit: `nat` for entropies, `1` for shares and variances.
        upper: the largest value the measure can take for these members and classes.
    """

    values: torch.Tensor
    unit: str
    upper: float

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.values).all()):
            raise OverreadError(
                "an uncertainty map has voxels that are not finite; were the opinions finite?"
            )
        if self.values.numel() and float(self.values.min()) < 0:
            raise OverreadError(
                f"an uncertainty map goes down to {float(self.values.min()):.3g}, expected >= 0"
            )
